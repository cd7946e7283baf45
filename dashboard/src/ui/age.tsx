import { useLanguage } from '@/i18n';
import { useNow } from '@/ui/clock';
import { formatDuration, formatTime } from '@/ui/format';

const STEPS: [Intl.RelativeTimeFormatUnit, number][] = [
  ['day', 86_400],
  ['hour', 3600],
  ['minute', 60],
];

/** The time since an event; the tooltip shows the exact time. */
export function Age({ at }: { at: number }) {
  const { language } = useLanguage();
  const ago = Math.max(0, useNow() - at);
  const relative = new Intl.RelativeTimeFormat(language, { numeric: 'auto', style: 'narrow' });
  const [unit, size] = STEPS.find(([, seconds]) => ago >= seconds) ?? ['second', 1];
  return (
    <time dateTime={new Date(at * 1000).toISOString()} title={formatTime(at)}>
      {relative.format(-Math.floor(ago / size), unit)}
    </time>
  );
}

/** The duration from a start to an end, or until now. */
export function Elapsed({ from, to }: { from: number; to: number | null }) {
  return to === null ? <Running from={from} /> : formatDuration(to - from);
}

function Running({ from }: { from: number }) {
  return formatDuration(useNow() - from);
}
