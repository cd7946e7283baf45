import { useT } from '@/i18n';

export interface Interval {
  name: string;
  value: number | null;
  low: number | null;
  high: number | null;
}

/** Horizontal bars with their values. */
export function Bars({ rows, format }: { rows: { name: string; value: number }[]; format: (value: number) => string }) {
  const max = Math.max(...rows.map((row) => row.value), Number.MIN_VALUE);
  return (
    <ul className="bars">
      {rows.map((row) => (
        <li key={row.name}>
          <span className="mono ellipsis" title={row.name}>
            {row.name}
          </span>
          <span className="meter">
            <span style={{ width: `${(100 * row.value) / max}%` }} />
          </span>
          <span className="number">{format(row.value)}</span>
        </li>
      ))}
    </ul>
  );
}

/** Estimates with their 95% confidence intervals on one scale that includes `origin`. */
export function Intervals({
  rows,
  origin,
  format,
}: {
  rows: Interval[];
  origin: number;
  format: (value: number | null) => string;
}) {
  const t = useT();
  const ends = rows.flatMap((row) => [row.low, row.value, row.high]).filter((value) => value !== null);
  const low = Math.min(origin, ...ends);
  const high = Math.max(origin, ...ends);
  const margin = (high - low || 1) * 0.05;
  const place = (value: number) => (100 * (value - low + margin)) / (high - low + 2 * margin);
  return (
    <ul className="intervals">
      {rows.map((row) => (
        <li key={row.name}>
          <span className="ellipsis" title={row.name}>
            {row.name}
          </span>
          <svg
            viewBox="0 0 100 10"
            preserveAspectRatio="none"
            role="img"
            aria-label={t('chart.interval', { value: format(row.value), low: format(row.low), high: format(row.high) })}
          >
            <line className="origin" x1={place(origin)} x2={place(origin)} y1="0" y2="10" />
            {row.low !== null && row.high !== null && (
              <line className="range" x1={place(row.low)} x2={place(row.high)} y1="5" y2="5" />
            )}
            {row.value !== null && (
              <line className="estimate" x1={place(row.value)} x2={place(row.value)} y1="2" y2="8" />
            )}
          </svg>
          <span className="number">
            {format(row.value)}
            {row.low !== null && row.high !== null && (
              <span className="muted">
                {' '}
                [{format(row.low)}, {format(row.high)}]
              </span>
            )}
          </span>
        </li>
      ))}
    </ul>
  );
}
