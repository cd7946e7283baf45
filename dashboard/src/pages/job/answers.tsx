import { useInfiniteQuery } from '@tanstack/react-query';
import { useState } from 'react';

import { ApiError, type Schema } from '@/api/client';
import { useT } from '@/i18n';
import { Card, Empty, ErrorNotice, Skeleton } from '@/ui/basics';

import { type Completion, readCompletions } from './completions';

function useCompletions(job: string, enabled: boolean) {
  return useInfiniteQuery({
    queryKey: ['completions', job],
    queryFn: ({ pageParam, signal }) => readCompletions(job, pageParam, signal),
    initialPageParam: 0,
    getNextPageParam: (page) => page.next,
    enabled,
    staleTime: Infinity,
    retry: (failures, error) => !(error instanceof ApiError) && failures < 2,
  });
}

/** Prompts and answers of a generate job, optionally compared with those of another job. */
export function Answers({ job }: { job: Schema<'JobObject'> }) {
  const t = useT();
  const [other, setOther] = useState('');
  const compared = /^job-[0-9a-z]{26}$/.test(other);
  const mine = useCompletions(job.id, job.state === 'succeeded');
  const theirs = useCompletions(other, compared);
  if (job.state !== 'succeeded') return <Empty title={t('answers.none')}>{t('answers.none.text')}</Empty>;
  if (mine.isPending) return <Skeleton lines={4} height={90} />;
  if (mine.isError) return <ErrorNotice error={mine.error} retry={() => void mine.refetch()} />;
  const items = mine.data.pages.flatMap((page) => page.items);
  const found = new Map(
    theirs.data?.pages.flatMap((page) => page.items).map((item) => [`${item.index}.${item.sample}`, item]),
  );
  return (
    <div className="stack">
      <div className="field">
        <label htmlFor="compare">{t('answers.compare')}</label>
        <input
          id="compare"
          className="mono"
          placeholder="job-…"
          value={other}
          spellCheck={false}
          onChange={(event) => setOther(event.target.value.trim())}
        />
      </div>
      {theirs.isError && <ErrorNotice error={theirs.error} />}
      {items.map((item) => (
        <Exchange
          key={`${item.index}.${item.sample}`}
          item={item}
          other={compared && theirs.isSuccess ? (found.get(`${item.index}.${item.sample}`) ?? null) : undefined}
        />
      ))}
      {(mine.hasNextPage || theirs.hasNextPage) && (
        <div>
          <button
            type="button"
            className="button"
            disabled={mine.isFetchingNextPage}
            onClick={() => {
              if (mine.hasNextPage) void mine.fetchNextPage();
              if (theirs.hasNextPage) void theirs.fetchNextPage();
            }}
          >
            {t('more')}
          </button>
        </div>
      )}
    </div>
  );
}

function Exchange({ item, other }: { item: Completion; other: Completion | null | undefined }) {
  const t = useT();
  const prompt = item.messages ?? [{ role: 'prompt', content: item.prompt ?? '' }];
  return (
    <Card>
      <div className="stack-small">
        {prompt.map((turn, index) => (
          <div key={index} className="turn">
            <span className="small muted">{turn.role}</span>
            <p>{turn.content}</p>
          </div>
        ))}
        <div className="answers">
          <Answer item={item} />
          {other === null && <p className="muted">{t('answers.missing')}</p>}
          {other && <Answer item={other} differs={other.completion !== item.completion} />}
        </div>
      </div>
    </Card>
  );
}

function Answer({ item, differs }: { item: Completion; differs?: boolean }) {
  const t = useT();
  return (
    <div className="answer">
      <p>{item.completion}</p>
      <span className="small muted tabular">
        {t('answers.meta', { tokens: item.completion_tokens, reason: item.finish_reason })}
        {differs !== undefined && ` · ${t(differs ? 'answers.differs' : 'answers.same')}`}
      </span>
    </div>
  );
}
