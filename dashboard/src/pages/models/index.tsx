import { useQueries } from '@tanstack/react-query';
import { useState } from 'react';

import { call } from '@/api/client';
import { useModels, useWorkers } from '@/api/queries';
import { useT } from '@/i18n';
import { Empty, ErrorNotice, PageHead, Skeleton } from '@/ui/basics';
import { useSearchState } from '@/ui/search-state';

import { measuredQuality, orderByLineage } from './lineage';
import { ModelRow } from './model-row';
import { RegisterDialog } from './register';
import { findWarmPlaces } from './warm';

/** All models of the project, each below the one it was derived from. */
export default function ModelsPage() {
  const t = useT();
  const models = useModels();
  const workers = useWorkers();
  const [search] = useSearchState();
  const [registering, setRegistering] = useState(false);
  const nodes = orderByLineage(models.data ?? []);
  const makers = nodes.flatMap(({ model }) =>
    model.job_id && 'quantization' in model.details && model.details.quantization ? [model.job_id] : [],
  );
  const jobs = useQueries({
    queries: makers.map((id) => ({
      queryKey: ['job', id],
      queryFn: ({ signal }: { signal: AbortSignal }) =>
        call('get', '/v1/jobs/{job_id}', { path: { job_id: id }, signal }),
      staleTime: 60_000,
      retry: false,
    })),
  });
  const quality = new Map(makers.map((id, at) => [id, measuredQuality(jobs[at]?.data)]));
  const warm = findWarmPlaces(workers.data ?? []);
  return (
    <>
      <PageHead title={t('nav.models')} note={t('models.note')}>
        <button type="button" className="button primary" onClick={() => setRegistering(true)}>
          {t('models.register')}
        </button>
      </PageHead>
      {models.isPending && <Skeleton lines={6} height={52} />}
      {models.isError && <ErrorNotice error={models.error} retry={() => void models.refetch()} />}
      {models.isSuccess && nodes.length === 0 && <Empty title={t('models.none')}>{t('models.none.text')}</Empty>}
      {nodes.length > 0 && (
        <section className="card flush">
          <div className="table-scroll" tabIndex={0} role="region" aria-label={t('nav.models')}>
            <table className="models">
              <thead>
                <tr>
                  <th>{t('model')}</th>
                  <th>{t('models.kind')}</th>
                  <th>{t('models.precision')}</th>
                  <th className="number">{t('size')}</th>
                  <th className="number">{t('quality.perplexity')}</th>
                  <th className="number">{t('quality.kl')}</th>
                  <th className="number">{t('created')}</th>
                  <th>
                    <span className="visually-hidden">{t('actions')}</span>
                  </th>
                </tr>
              </thead>
              <tbody>
                {nodes.map(({ model, depth }) => (
                  <ModelRow
                    key={model.id}
                    model={model}
                    depth={depth}
                    warm={warm.get(model.id) ?? []}
                    quality={quality.get(model.job_id ?? '') ?? null}
                    chosen={search.get('model') === model.id}
                  />
                ))}
              </tbody>
            </table>
          </div>
        </section>
      )}
      {registering && <RegisterDialog close={() => setRegistering(false)} />}
    </>
  );
}
