import { useState } from 'react';

import { address, type Schema } from '@/api/client';
import { isFinal } from '@/api/queries';
import { useT } from '@/i18n';
import { Empty, ErrorNotice, Skeleton } from '@/ui/basics';
import { useSearchState } from '@/ui/search-state';

import { useTail } from './lines';
import { LogSearch } from './search';
import { LogView } from './view';

/** The output of a job, opened at its end or at the line in the URL. */
export default function LogPage({ job }: { job: Schema<'JobObject'> }) {
  const t = useT();
  const [search, change] = useSearchState();
  const tail = useTail(job.id);
  const [query, setQuery] = useState('');
  const [wrap, setWrap] = useState(false);
  const line = Number(search.get('line')) || null;
  if (tail.isPending) return <Skeleton lines={12} height={20} />;
  if (tail.isError) return <ErrorNotice error={tail.error} retry={() => void tail.refetch()} />;
  if (tail.data.total === 0)
    return <Empty title={t('log.none')}>{t(isFinal(job.state) ? 'log.none.final' : 'log.none.yet')}</Empty>;
  return (
    <div className="stack-small">
      <div className="row-apart">
        <LogSearch
          job={job.id}
          total={tail.data.total}
          line={line}
          query={query}
          setQuery={setQuery}
          goTo={(number) => change({ line: String(number) })}
        />
        <div className="row">
          <label className="check">
            <input type="checkbox" checked={wrap} onChange={(event) => setWrap(event.target.checked)} />
            {t('log.details')}
          </label>
          <a className="button" href={address('/v1/jobs/{job_id}/logs', { job_id: job.id })} download={`${job.id}.log`}>
            {t('log.download')}
          </a>
        </div>
      </div>
      <LogView
        key={job.id}
        job={job.id}
        total={tail.data.total}
        tail={tail.data.data}
        query={query}
        line={line}
        details={wrap}
        choose={(number) => change({ line: String(number) })}
      />
    </div>
  );
}
