import { useQuery } from '@tanstack/react-query';

import { call, type Schema } from '@/api/client';
import { readAll } from '@/api/queries';
import { useT } from '@/i18n';
import { Empty, ErrorNotice, Skeleton } from '@/ui/basics';
import { CopyButton } from '@/ui/copy';
import { formatBytes } from '@/ui/format';

export function useArtifacts(job: string, version: number) {
  return useQuery({
    queryKey: ['artifacts', job, version],
    queryFn: ({ signal }) =>
      readAll<Schema<'ArtifactObject'>>((after) =>
        call('get', '/v1/jobs/{job_id}/artifacts', {
          path: { job_id: job },
          query: after === undefined ? { limit: 100 } : { limit: 100, after },
          signal,
        }),
      ),
  });
}

/** The URL of an artifact; slashes of its path are not encoded. */
export function artifactAddress(job: string, path: string): string {
  return `/v1/jobs/${encodeURIComponent(job)}/artifacts/${path.split('/').map(encodeURIComponent).join('/')}`;
}

export function Files({ job }: { job: Schema<'JobObject'> }) {
  const t = useT();
  const files = useArtifacts(job.id, job.version);
  if (files.isPending) return <Skeleton />;
  if (files.isError) return <ErrorNotice error={files.error} retry={() => void files.refetch()} />;
  if (files.data.length === 0) return <Empty title={t('files.none')}>{t('files.none.text')}</Empty>;
  return (
    <section className="card flush">
      <div className="table-scroll" tabIndex={0} role="region" aria-label={t('job.files')}>
        <table>
          <thead>
            <tr>
              <th>{t('files.path')}</th>
              <th className="number">{t('size')}</th>
              <th>SHA-256</th>
            </tr>
          </thead>
          <tbody>
            {files.data.map((file) => (
              <tr key={file.id}>
                <td>
                  <a href={artifactAddress(job.id, file.path)} download={file.path.split('/').at(-1)}>
                    {file.path}
                  </a>
                </td>
                <td className="number">{formatBytes(file.bytes)}</td>
                <td>
                  <span className="row">
                    <code title={file.sha256}>{file.sha256.slice(0, 12)}…</code>
                    <CopyButton text={file.sha256} />
                  </span>
                </td>
              </tr>
            ))}
          </tbody>
        </table>
      </div>
    </section>
  );
}
