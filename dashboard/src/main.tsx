import './styles/index.css';

import { QueryClient, QueryClientProvider } from '@tanstack/react-query';
import { StrictMode } from 'react';
import { createRoot } from 'react-dom/client';

import { ApiError, call } from '@/api/client';
import { App } from '@/app';
import { LanguageProvider, loadMessages, preferredLanguage } from '@/i18n';
import { applyTheme, storedTheme } from '@/ui/theme';

const client = new QueryClient({
  defaultOptions: {
    queries: {
      retry: (failures, error) => !(error instanceof ApiError && error.status < 500) && failures < 3,
      staleTime: 10_000,
      refetchOnWindowFocus: false, // the event stream reports missed events
    },
  },
});

/** Redeem the one-time link that `make up` prints; its token is after the #, so that it appears in no log. */
async function redeemLink(): Promise<boolean> {
  const link = /^#link=(.+)$/.exec(window.location.hash)?.[1];
  if (link === undefined) return true;
  window.history.replaceState(null, '', window.location.pathname);
  try {
    await call('post', '/v1/session', { body: { link } });
    return true;
  } catch {
    return false;
  }
}

async function start(): Promise<void> {
  applyTheme(storedTheme());
  const language = preferredLanguage();
  document.documentElement.lang = language === 'zh' ? 'zh-CN' : 'en';
  const [messages, redeemed] = await Promise.all([loadMessages(language), redeemLink()]);
  createRoot(document.getElementById('root') as HTMLElement).render(
    <StrictMode>
      <QueryClientProvider client={client}>
        <LanguageProvider initial={language} messages={messages}>
          <App linkFailed={!redeemed} />
        </LanguageProvider>
      </QueryClientProvider>
    </StrictMode>,
  );
}

void start();
