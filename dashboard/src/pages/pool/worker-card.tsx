import { useQuery, useQueryClient } from '@tanstack/react-query';
import { Link } from 'wouter';

import { call, type Schema } from '@/api/client';
import { type MessageKey, useT } from '@/i18n';
import { ConfirmButton } from '@/ui/confirm';
import { formatBytes } from '@/ui/format';

import type { Placed } from './index';
import { Sparkline } from './sparkline';

const HISTORY_MS = 15_000;

type Worker = Schema<'WorkerObject'>;
type Device = Schema<'DeviceObject'>;

export function WorkerCard({ worker, placed }: { worker: Worker; placed: Placed[] }) {
  const t = useT();
  const client = useQueryClient();
  const history = useQuery({
    queryKey: ['worker-history', worker.id],
    queryFn: ({ signal }) =>
      call('get', '/v1/workers/{worker_id}/history', {
        path: { worker_id: worker.id },
        query: { points: 120 },
        signal,
      }),
    refetchInterval: HISTORY_MS,
  });
  const path = { worker_id: worker.id };
  const refresh = () => void client.invalidateQueries({ queryKey: ['workers'] });
  const here = placed.filter(({ allocations }) => allocations.some((place) => place.worker === worker.id));
  return (
    <section className="card stack" aria-label={worker.id}>
      <div className="row-apart">
        <div className="row">
          <h2>{worker.id}</h2>
          <span className="badge" data-tone={worker.state === 'draining' ? 'warn' : 'good'}>
            {t(worker.state === 'draining' ? 'pool.draining' : 'pool.active')}
          </span>
        </div>
        {worker.drain_at === null ? (
          <ConfirmButton
            small
            label={t('pool.drain')}
            title={t('pool.drain.title', { worker: worker.id })}
            action={() => call('post', '/v1/workers/{worker_id}/drain', { path, body: {} })}
            done={refresh}
          >
            {t('pool.drain.text')}
          </ConfirmButton>
        ) : (
          <ConfirmButton
            small
            label={t('pool.undrain')}
            title={t('pool.undrain.title', { worker: worker.id })}
            action={() => call('post', '/v1/workers/{worker_id}/undrain', { path })}
            done={refresh}
          >
            {t('pool.undrain.text')}
          </ConfirmButton>
        )}
      </div>
      <p className="small muted">
        {worker.hostname} · {t('pool.slots', { used: here.length, slots: worker.slots })}
        {Object.entries(worker.labels).map(([name, value]) => ` · ${name}=${value}`)}
      </p>
      {worker.devices.map((device) => (
        <DeviceView
          key={device.uuid}
          device={device}
          worker={worker.id}
          placed={here}
          past={history.data?.devices.find(({ uuid }) => uuid === device.uuid)}
        />
      ))}
      {history.data && worker.host.memory_bytes && (
        <Sparkline
          label={t('pool.hostMemory')}
          values={history.data.host_available_bytes.map((free) =>
            free === null || !worker.host.memory_bytes ? null : 1 - free / worker.host.memory_bytes,
          )}
          now={worker.host.available_bytes ? formatBytes(worker.host.memory_bytes - worker.host.available_bytes) : ''}
        />
      )}
    </section>
  );
}

interface DeviceProps {
  device: Device;
  worker: string;
  placed: Placed[];
  past: Schema<'DeviceHistory'> | undefined;
}

function reservedBy({ allocations }: Placed, worker: string, uuid: string): number {
  return allocations
    .filter((place) => place.worker === worker)
    .flatMap((place) => place.devices)
    .filter((device) => device.uuid === uuid)
    .reduce((sum, device) => sum + device.reserved_bytes, 0);
}

function DeviceView({ device, worker, placed, past }: DeviceProps) {
  const t = useT();
  const jobs = placed
    .map((each) => ({ job: each.job, bytes: reservedBy(each, worker, device.uuid) }))
    .filter(({ bytes }) => bytes > 0);
  const reserved = jobs.reduce((sum, { bytes }) => sum + bytes, 0);
  const others = device.used_by_others_bytes ?? 0;
  const bar = t('pool.bar', { reserved: formatBytes(reserved + others), size: formatBytes(device.memory_bytes) });
  const share = (bytes: number) => `${Math.min(100, (100 * bytes) / Math.max(1, device.memory_bytes))}%`;
  return (
    <div className="stack-small">
      <div className="row-apart small">
        <strong>
          {device.name || device.type} {device.index}
        </strong>
        <span className="muted tabular">
          {bar}
          {typeof device.temperature === 'number' && ` · ${device.temperature} °C`}
        </span>
      </div>
      <div className="meter tall" role="img" aria-label={bar}>
        {jobs.map(({ job, bytes }, at) => (
          <span key={job.id} className={`tone-${(at % 8) + 1}`} style={{ width: share(bytes) }} />
        ))}
        {others > 0 && <span className="tone-7" style={{ width: share(others) }} />}
      </div>
      <ul className="legend">
        {jobs.map(({ job, bytes }, at) => (
          <li key={job.id}>
            <span className={`swatch tone-${(at % 8) + 1}`} />
            <Link href={`/jobs/${job.id}`}>
              {t(`kind.${job.kind}` as MessageKey)} {job.id.slice(-6)}
            </Link>
            <span className="muted tabular">{formatBytes(bytes)}</span>
          </li>
        ))}
        {others > 0 && (
          <li>
            <span className="swatch tone-7" />
            {t('pool.others')} <span className="muted tabular">{formatBytes(others)}</span>
          </li>
        )}
        {jobs.length === 0 && <li className="muted">{t('pool.idle')}</li>}
      </ul>
      {past && past.used_bytes.some((value) => value !== null) && (
        <Sparkline
          label={t('pool.memory')}
          values={past.used_bytes.map((used) => (used === null ? null : used / device.memory_bytes))}
          now={typeof device.used_bytes === 'number' ? formatBytes(device.used_bytes) : ''}
        />
      )}
      {past && past.utilization.some((value) => value !== null) && (
        <Sparkline
          label={t('pool.utilization')}
          values={past.utilization.map((percent) => (percent === null ? null : percent / 100))}
          now={typeof device.utilization === 'number' ? `${device.utilization}%` : ''}
        />
      )}
    </div>
  );
}
