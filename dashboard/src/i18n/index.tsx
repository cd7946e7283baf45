import { createContext, type ReactNode, use, useMemo, useState } from 'react';

import { en } from './en';

export type MessageKey = keyof typeof en;
export type Messages = Record<MessageKey, string>;
export type Language = 'en' | 'zh';
export type Translate = (key: MessageKey, values?: Record<string, string | number>) => string;

const STORED = 'baichuan.language';

/** The language chosen by the user, by default the browser's. */
export function preferredLanguage(): Language {
  const chosen = localStorage.getItem(STORED) ?? navigator.language;
  return chosen.toLowerCase().startsWith('zh') ? 'zh' : 'en';
}

/** Load the messages of a language; a language is downloaded only when it is used. */
export async function loadMessages(language: Language): Promise<Messages> {
  return language === 'zh' ? (await import('./zh')).zh : en;
}

/** Fill in `{name}` in a message; `{count|one|many}` chooses a word by number. */
export function format(message: string, values: Record<string, string | number> = {}): string {
  return message.replace(/\{(\w+)(?:\|([^|}]*)\|([^}]*))?\}/g, (whole, name: string, one?: string, many?: string) => {
    const value = values[name];
    if (value === undefined) return whole;
    if (one !== undefined && many !== undefined) return Number(value) === 1 ? one : many;
    return String(value);
  });
}

interface Spoken {
  language: Language;
  t: Translate;
  choose: (language: Language) => void;
}

const Context = createContext<Spoken | null>(null);

export function LanguageProvider({
  initial,
  messages,
  children,
}: {
  initial: Language;
  messages: Messages;
  children: ReactNode;
}) {
  const [current, setCurrent] = useState({ language: initial, messages });
  const value = useMemo<Spoken>(
    () => ({
      language: current.language,
      t: (key, values) => format(current.messages[key], values),
      choose: (language) => {
        localStorage.setItem(STORED, language);
        void loadMessages(language).then((loaded) => {
          document.documentElement.lang = language === 'zh' ? 'zh-CN' : 'en';
          setCurrent({ language, messages: loaded });
        });
      },
    }),
    [current],
  );
  return <Context value={value}>{children}</Context>;
}

export function useLanguage(): Spoken {
  const spoken = use(Context);
  if (spoken === null) throw new Error('useLanguage needs a LanguageProvider');
  return spoken;
}

export function useT(): Translate {
  return useLanguage().t;
}
