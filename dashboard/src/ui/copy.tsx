import { useEffect, useState } from 'react';

import { useT } from '@/i18n';

/** A button that copies text, even if the clipboard API is missing because the page is not served over HTTPS. */
export function CopyButton({ text, label }: { text: string; label?: string }) {
  const t = useT();
  const [copied, setCopied] = useState(false);
  useEffect(() => {
    if (!copied) return undefined;
    const timer = setTimeout(() => setCopied(false), 1500);
    return () => clearTimeout(timer);
  }, [copied]);
  return (
    <button type="button" className="button small" onClick={() => void copyText(text).then(setCopied)}>
      {copied ? t('copied') : (label ?? t('copy'))}
    </button>
  );
}

async function copyText(text: string): Promise<boolean> {
  if (window.isSecureContext) {
    await navigator.clipboard.writeText(text);
    return true;
  }
  const area = document.createElement('textarea');
  area.value = text;
  document.body.append(area);
  area.select();
  const done = document.execCommand('copy');
  area.remove();
  return done;
}

export function CodeBlock({ text, wrap, label }: { text: string; wrap?: boolean; label: string }) {
  return (
    <div className="stack-small">
      <pre className={wrap ? 'code wrap' : 'code'} tabIndex={0} aria-label={label}>
        {text}
      </pre>
      <div>
        <CopyButton text={text} />
      </div>
    </div>
  );
}
