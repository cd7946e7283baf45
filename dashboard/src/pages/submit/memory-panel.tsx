import { useQuery } from '@tanstack/react-query';

import type { Schema } from '@/api/client';
import { useModels, useWorkers } from '@/api/queries';
import { type MessageKey, useT } from '@/i18n';
import { Card, errorText, Skeleton } from '@/ui/basics';
import { formatBytes } from '@/ui/format';

import { completeForEstimate, estimate, type Estimate, findRemedies, type Spec } from './fits';

const PARTS = ['weights', 'optimizer', 'gradients', 'activations', 'cache'] as const;

interface Place {
  id: string;
  name: string;
  bytes: number;
}

/** List the devices of the pool; a machine without a GPU counts as one device with the memory of its host. */
function placesOf(workers: Schema<'WorkerObject'>[], kind: string): Place[] {
  return workers
    .filter((worker) => worker.kinds.includes(kind))
    .flatMap((worker) =>
      worker.devices.map((device) => ({
        id: `${worker.id}/${device.uuid}`,
        name: `${worker.id} · ${device.name || device.type} ${device.index}`,
        bytes: device.memory_bytes - (device.used_by_others_bytes ?? 0),
      })),
    );
}

/** The memory that the job needs on each device of the pool, and changes that would make it fit. */
export function MemoryPanel({ kind, spec, apply }: { kind: string; spec: Spec | null; apply: (change: Spec) => void }) {
  const t = useT();
  const workers = useWorkers();
  const complete = spec && spec.model !== undefined ? completeForEstimate(kind, spec) : null;
  const needs = useQuery({
    queryKey: ['estimate', complete],
    queryFn: async ({ signal }) => {
      await new Promise((resolve) => setTimeout(resolve, 250)); // wait until the user stops typing
      signal.throwIfAborted();
      return estimate(complete as Spec, signal);
    },
    enabled: complete !== null,
    retry: false,
    staleTime: 60_000,
    placeholderData: (previous) => previous,
  });
  const places = placesOf(workers.data ?? [], kind);
  return (
    <Card title={t('memory.title')}>
      <div className="stack" aria-live="polite">
        {complete === null && <p className="muted">{t('memory.choose')}</p>}
        {complete !== null && needs.isPending && <Skeleton lines={3} />}
        {complete !== null && needs.isError && (
          <p className="muted">{errorText(needs.error, t('error.unreachable.help'))}</p>
        )}
        {complete !== null && needs.isSuccess && (
          <>
            <Parts needs={needs.data} />
            {workers.isSuccess && places.length === 0 && <p className="muted">{t('memory.noDevice')}</p>}
            {places.map((place) => (
              <PlaceBar key={place.id} place={place} needs={needs.data} />
            ))}
            <Remedies spec={complete} needs={needs.data} places={places} apply={apply} />
          </>
        )}
      </div>
    </Card>
  );
}

function Parts({ needs }: { needs: Estimate }) {
  const t = useT();
  return (
    <table>
      <tbody>
        {PARTS.map((part, index) => (
          <tr key={part}>
            <td>
              <span className="row">
                <span className={`swatch tone-${index + 1}`} />
                {t(`memory.${part}` as MessageKey)}
              </span>
            </td>
            <td className="number">{formatBytes(needs[`${part}_bytes`])}</td>
          </tr>
        ))}
        <tr>
          <td>
            <strong>{t('memory.total')}</strong>
          </td>
          <td className="number">
            <strong>{formatBytes(needs.total_bytes)}</strong>
          </td>
        </tr>
      </tbody>
    </table>
  );
}

function PlaceBar({ place, needs }: { place: Place; needs: Estimate }) {
  const t = useT();
  const fits = needs.total_bytes <= place.bytes;
  const scale = Math.max(place.bytes, needs.total_bytes);
  return (
    <div className="stack-small">
      <div className="row-apart small">
        <span className="ellipsis grow">{place.name}</span>
        <span className="badge" data-tone={fits ? 'good' : 'bad'}>
          {t(fits ? 'memory.fits' : 'memory.tooSmall')}
        </span>
      </div>
      <div
        className="meter tall"
        role="img"
        aria-label={t('memory.bar', { need: formatBytes(needs.total_bytes), size: formatBytes(place.bytes) })}
      >
        {PARTS.map((part, index) => (
          <span
            key={part}
            className={`tone-${index + 1}`}
            style={{ width: `${(100 * needs[`${part}_bytes`]) / scale}%` }}
          />
        ))}
      </div>
      <span className="small muted tabular">
        {t('memory.bar', { need: formatBytes(needs.total_bytes), size: formatBytes(place.bytes) })}
      </span>
    </div>
  );
}

function Remedies({
  spec,
  needs,
  places,
  apply,
}: {
  spec: Spec;
  needs: Estimate;
  places: Place[];
  apply: (change: Spec) => void;
}) {
  const t = useT();
  const models = useModels();
  const largest = Math.max(0, ...places.map((place) => place.bytes));
  const tooLarge = places.length > 0 && needs.total_bytes > largest;
  const smaller = (models.data ?? [])
    .filter((model) => model.base === spec.model && 'quantization' in model.details && model.details.quantization)
    .map((model) => model.id);
  const remedies = useQuery({
    queryKey: ['remedies', spec, largest, smaller],
    queryFn: ({ signal }) => findRemedies(spec, largest, smaller, signal),
    enabled: tooLarge,
    staleTime: 60_000,
  });
  if (!tooLarge || !remedies.isSuccess) return null;
  return (
    <div className="notice" data-tone="warn">
      <strong>{t(remedies.data.length > 0 ? 'memory.remedies' : 'memory.noRemedy')}</strong>
      {remedies.data.map(({ change, total }) => (
        <button key={JSON.stringify(change)} type="button" className="button small" onClick={() => apply(change)}>
          {Object.entries(change)
            .map(([name, value]) => `${name}: ${String(value)}`)
            .join(', ')}{' '}
          · {formatBytes(total)}
        </button>
      ))}
    </div>
  );
}
