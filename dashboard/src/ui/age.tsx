import { useLanguage } from '@/i18n';
import { useNow } from '@/ui/clock';
import { formatDuration, formatTime } from '@/ui/format';

const STEPS: [Intl.RelativeTimeFormatUnit, number][] = [
  ['day', 86_400],
  ['hour', 3600],
  ['minute', 60],
];

/** How long ago something was; the exact time is in the tooltip. */
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

/** The time from a start to an end, or to now. */
export function Elapsed({ from, to }: { from: number; to: number | null }) {
  return to === null ? <Running from={from} /> : formatDuration(to - from);
}

function Running({ from }: { from: number }) {
  return formatDuration(useNow() - from);
}
