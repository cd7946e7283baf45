import { useQuery } from '@tanstack/react-query';
import { useState } from 'react';

import { call, type Schema } from '@/api/client';
import { useT } from '@/i18n';
import { Card, ErrorNotice, Skeleton } from '@/ui/basics';
import { useNow } from '@/ui/clock';
import { formatCount, formatDuration } from '@/ui/format';

const PERIODS = [7, 30, 90];

type Entry = Schema<'UsageEntry'>;

interface Total {
  name: string;
  jobs: number;
  seconds: number;
  tokens: number;
}

/** Sum the entries with the same name, sorted by device time in descending order. */
export function sumBy(entries: Entry[], name: (entry: Entry) => string): Total[] {
  const totals = new Map<string, Total>();
  for (const entry of entries) {
    const key = name(entry);
    const total = totals.get(key) ?? { name: key, jobs: 0, seconds: 0, tokens: 0 };
    total.jobs += entry.jobs;
    total.seconds += entry.device_seconds;
    total.tokens += entry.tokens;
    totals.set(key, total);
  }
  return [...totals.values()].sort((a, b) => b.seconds - a.seconds);
}

export function UsageView() {
  const t = useT();
  const [days, setDays] = useState(30);
  const usage = useQuery({
    queryKey: ['usage', days],
    queryFn: ({ signal }) => call('get', '/v1/usage', { query: { days }, signal }),
    placeholderData: (previous) => previous,
  });
  return (
    <Card
      title={
        <span className="row-apart">
          {t('usage.title')}
          <select
            className="compact"
            aria-label={t('usage.period')}
            value={days}
            onChange={(event) => setDays(Number(event.target.value))}
          >
            {PERIODS.map((count) => (
              <option key={count} value={count}>
                {t('usage.days', { count })}
              </option>
            ))}
          </select>
        </span>
      }
    >
      {usage.isPending && <Skeleton lines={4} />}
      {usage.isError && <ErrorNotice error={usage.error} retry={() => void usage.refetch()} />}
      {usage.data?.data.length === 0 && <p className="muted">{t('usage.none')}</p>}
      {usage.data && usage.data.data.length > 0 && (
        <div className="stack">
          <Days entries={usage.data.data} days={days} />
          <Totals totals={sumBy(usage.data.data, (entry) => entry.key_name || '–')} />
        </div>
      )}
    </Card>
  );
}

/** A column chart of device time per day. */
function Days({ entries, days }: { entries: Entry[]; days: number }) {
  const t = useT();
  const totals = new Map(sumBy(entries, (entry) => entry.day).map((total) => [total.name, total]));
  const today = Math.floor(useNow() / 86_400);
  const names = Array.from({ length: days }, (_, at) =>
    new Date((today - (days - 1 - at)) * 86_400_000).toISOString().slice(0, 10),
  );
  const max = Math.max(1, ...[...totals.values()].map((total) => total.seconds));
  return (
    <figure className="stack-small">
      <figcaption className="small muted">{t('usage.perDay')}</figcaption>
      <ol className="day-columns" aria-label={t('usage.perDay')}>
        {names.map((day) => {
          const seconds = totals.get(day)?.seconds ?? 0;
          const text = `${day}: ${formatDuration(seconds)}`;
          return (
            <li key={day} title={text}>
              <span style={{ height: `${(100 * seconds) / max}%` }} />
              <span className="visually-hidden">{text}</span>
            </li>
          );
        })}
      </ol>
    </figure>
  );
}

function Totals({ totals }: { totals: Total[] }) {
  const t = useT();
  return (
    <div className="table-scroll" tabIndex={0} role="region" aria-label={t('usage.title')}>
      <table>
        <thead>
          <tr>
            <th>{t('usage.key')}</th>
            <th className="number">{t('usage.jobs')}</th>
            <th className="number">{t('usage.deviceTime')}</th>
            <th className="number">{t('usage.tokens')}</th>
          </tr>
        </thead>
        <tbody>
          {totals.map((total) => (
            <tr key={total.name}>
              <td>{total.name}</td>
              <td className="number">{formatCount(total.jobs)}</td>
              <td className="number">{formatDuration(total.seconds)}</td>
              <td className="number">{formatCount(total.tokens)}</td>
            </tr>
          ))}
        </tbody>
      </table>
    </div>
  );
}
