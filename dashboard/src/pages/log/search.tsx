import { useMutation } from '@tanstack/react-query';
import { type KeyboardEvent } from 'react';

import { call } from '@/api/client';
import { useT } from '@/i18n';
import { formatCount } from '@/ui/format';

interface Props {
  job: string;
  total: number;
  line: number | null;
  query: string;
  setQuery: (query: string) => void;
  goTo: (line: number) => void;
}

/** Search in the whole log, on the server. Enter finds the next match, Shift+Enter the previous one. */
export function LogSearch({ job, total, line, query, setQuery, goTo }: Props) {
  const t = useT();
  const find = useMutation({
    mutationFn: async (direction: 'next' | 'previous') => {
      const step = direction === 'next' ? 1 : -1;
      const start = line === null ? undefined : line + step;
      const outside = start !== undefined && (start < 1 || start > total);
      const search = (from: number | undefined) =>
        call('get', '/v1/jobs/{job_id}/logs/search', {
          path: { job_id: job },
          query: { query, direction, ignore_case: true, ...(from === undefined ? {} : { start: from }) },
        });
      const found = await search(outside ? undefined : start);
      // After the last match, the search continues at the other end.
      return found.data.length === 0 && found.count > 0 && start !== undefined ? search(undefined) : found;
    },
    onSuccess: (found) => {
      const match = found.data[0];
      if (match) goTo(match.line.number);
    },
  });
  const onKeyDown = (event: KeyboardEvent) => {
    if (event.key !== 'Enter' || query === '') return;
    event.preventDefault();
    find.mutate(event.shiftKey ? 'previous' : 'next');
  };
  return (
    <div className="row" role="search">
      <input
        type="search"
        className="log-query"
        aria-label={t('log.search')}
        placeholder={t('log.search')}
        value={query}
        onChange={(event) => {
          find.reset();
          setQuery(event.target.value);
        }}
        onKeyDown={onKeyDown}
      />
      <button
        type="button"
        className="button"
        disabled={query === '' || find.isPending}
        onClick={() => find.mutate('previous')}
      >
        {t('log.previous')}
      </button>
      <button
        type="button"
        className="button"
        disabled={query === '' || find.isPending}
        onClick={() => find.mutate('next')}
      >
        {t('log.next')}
      </button>
      <span className="small muted tabular" role="status">
        {find.data &&
          (find.data.count === 0
            ? t('log.notFound')
            : t('log.found', { position: formatCount(find.data.position), count: formatCount(find.data.count) }))}
      </span>
    </div>
  );
}
