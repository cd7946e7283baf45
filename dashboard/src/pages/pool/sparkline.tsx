import { useT } from '@/i18n';
import { formatPercent } from '@/ui/format';

const WIDTH = 240;
const HEIGHT = 28;

/** A chart of a fraction over the last hour, from 0 to 1; gaps are missing measurements. */
export function Sparkline({ label, values, now }: { label: string; values: (number | null)[]; now: string }) {
  const t = useT();
  const step = WIDTH / Math.max(1, values.length - 1);
  const known = values.filter((value) => value !== null);
  const summary = t('pool.history', { label, max: formatPercent(Math.max(0, ...known)) });
  return (
    <div className="sparkline">
      <span className="small muted">{label}</span>
      <svg viewBox={`0 0 ${WIDTH} ${HEIGHT}`} preserveAspectRatio="none" role="img" aria-label={summary}>
        <path d={pathOf(values, step)} />
      </svg>
      <span className="small number">{now}</span>
    </div>
  );
}

function pathOf(values: (number | null)[], step: number): string {
  let pen = 'M';
  return values
    .map((value, at) => {
      if (value === null) {
        pen = 'M';
        return '';
      }
      const point = `${pen}${(at * step).toFixed(1)},${(HEIGHT - 1 - Math.min(1, value) * (HEIGHT - 2)).toFixed(1)}`;
      pen = 'L';
      return point;
    })
    .join('');
}
