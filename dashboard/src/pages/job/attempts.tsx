import { useQuery } from '@tanstack/react-query';

import { call, type Schema } from '@/api/client';
import { useT } from '@/i18n';
import { Elapsed } from '@/ui/age';
import { Card, Empty, ErrorNotice, Facts, Skeleton, StateBadge } from '@/ui/basics';
import { formatBytes, formatTime } from '@/ui/format';

/** Each attempt with its error and where it ran. */
export function Attempts({ job }: { job: Schema<'JobObject'> }) {
  const t = useT();
  const attempts = useQuery({
    queryKey: ['attempts', job.id],
    queryFn: async ({ signal }) =>
      (await call('get', '/v1/jobs/{job_id}/attempts', { path: { job_id: job.id }, query: { limit: 100 }, signal }))
        .data,
  });
  if (attempts.isPending) return <Skeleton lines={2} height={120} />;
  if (attempts.isError) return <ErrorNotice error={attempts.error} retry={() => void attempts.refetch()} />;
  if (attempts.data.length === 0) return <Empty title={t('attempts.none')}>{t('attempts.none.text')}</Empty>;
  return (
    <div className="stack">
      {attempts.data.toReversed().map((attempt) => (
        <Card
          key={attempt.id}
          title={
            <span className="row">
              {t('attempts.number', { number: attempt.number })} <StateBadge state={attempt.state} />
            </span>
          }
        >
          <div className="stack">
            <Facts
              items={[
                [t('attempts.worker'), attempt.worker_id],
                [t('job.started'), attempt.started_at === null ? '–' : formatTime(attempt.started_at)],
                [
                  t('job.runtime'),
                  attempt.started_at === null ? (
                    '–'
                  ) : (
                    <Elapsed key="e" from={attempt.started_at} to={attempt.finished_at} />
                  ),
                ],
                ...attempt.allocations.flatMap((place) =>
                  place.devices.length > 0
                    ? place.devices.map((device): [string, string] => [
                        `${place.worker} · ${t('attempts.device', { index: device.index })}`,
                        t('attempts.reserved', { bytes: formatBytes(device.reserved_bytes) }),
                      ])
                    : [
                        [place.worker, t('attempts.host', { bytes: formatBytes(place.host_bytes) })] as [
                          string,
                          string,
                        ],
                      ],
                ),
              ]}
            />
            {attempt.error && (
              <div className="notice" data-tone="bad">
                <code>{String(attempt.error.code ?? '')}</code>
                <span>{String(attempt.error.message ?? JSON.stringify(attempt.error))}</span>
              </div>
            )}
          </div>
        </Card>
      ))}
    </div>
  );
}
