import { useQueryClient } from '@tanstack/react-query';
import { Link, useLocation } from 'wouter';

import { call, type Schema } from '@/api/client';
import { submitJob } from '@/api/queries';
import { useT } from '@/i18n';
import { Age } from '@/ui/age';
import { ConfirmButton } from '@/ui/confirm';
import { formatBytes, formatOptional } from '@/ui/format';

import { precisionOf } from './lineage';
import type { WarmPlace } from './warm';

interface Props {
  model: Schema<'ModelObject'>;
  depth: number;
  quality: { perplexity: number | null; kl: number | null } | null;
  warm: WarmPlace[];
  chosen: boolean;
}

export function ModelRow({ model, depth, quality, warm, chosen }: Props) {
  const t = useT();
  const client = useQueryClient();
  const [, navigate] = useLocation();
  const bytes = (model.details as { bytes?: number }).bytes;
  const query = `model=${encodeURIComponent(model.id)}`;
  return (
    <tr aria-current={chosen || undefined}>
      <td>
        <span className="lineage" style={{ paddingLeft: `${depth * 1.25}rem` }}>
          {depth > 0 && (
            <span className="muted" aria-label={t('models.madeFrom', { base: model.base ?? '' })} role="img">
              └{' '}
            </span>
          )}
          <strong className="mono">{model.id}</strong>
        </span>
        {model.job_id && (
          <div className="small muted" style={{ paddingLeft: `${depth * 1.25}rem` }}>
            <Link href={`/jobs/${model.job_id}`}>{t('models.job')}</Link>
          </div>
        )}
        {warm.map(({ worker, state }) => (
          <div key={worker} className="small" style={{ paddingLeft: `${depth * 1.25}rem` }}>
            <span className="badge" data-tone={state === 'busy' ? 'info' : 'good'}>
              {t(`models.warm.${state}`, { worker })}
            </span>
          </div>
        ))}
      </td>
      <td>{model.kind}</td>
      <td>{precisionOf(model)}</td>
      <td className="number">{bytes === undefined ? '–' : formatBytes(bytes)}</td>
      <td className="number">{formatOptional(quality?.perplexity)}</td>
      <td className="number">{formatOptional(quality?.kl)}</td>
      <td className="number">
        <Age at={model.created} />
      </td>
      <td>
        <span className="row end">
          {model.kind !== 'adapter' && (
            <Link className="button small" href={`/submit?kind=generate&${query}`}>
              {t('models.use')}
            </Link>
          )}
          {model.kind === 'checkpoint' && (
            <ConfirmButton
              small
              label="GGUF"
              title={t('models.gguf')}
              action={async () => {
                const job = await submitJob({ kind: 'convert', model: model.id, target: 'gguf', gguf_type: 'q8_0' });
                navigate(`/jobs/${job.id}`);
              }}
            >
              {t('models.gguf.text', { model: model.id })}
            </ConfirmButton>
          )}
          <ConfirmButton
            small
            danger
            label={t('delete')}
            title={t('models.delete', { model: model.id })}
            action={() => deleteModel(model.id)}
            done={() => void client.invalidateQueries({ queryKey: ['models'] })}
          >
            {t(model.path === null ? 'models.delete.made' : 'models.delete.registered')}
          </ConfirmButton>
        </span>
      </td>
    </tr>
  );
}

function deleteModel(id: string): Promise<unknown> {
  return call('delete', '/v1/models/{model}', { path: { model: id } });
}
