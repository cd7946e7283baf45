import { useVirtualizer } from '@tanstack/react-virtual';
import { useEffect, useRef, useState } from 'react';

import { useT } from '@/i18n';
import { formatCount, formatTime } from '@/ui/format';

import { type LogLine, useLines } from './lines';
import { Marked } from './marked';

const LINE_PX = 16;
/** Number of lines shown at once; browsers limit the height of an element, so a longer log is shown in parts. */
const MAX_SHOWN = 1_000_000;

interface Props {
  job: string;
  total: number;
  tail: LogLine[];
  query: string;
  line: number | null;
  details: boolean;
  choose: (line: number) => void;
}

export function LogView({ job, total, tail, query, line, details, choose }: Props) {
  const t = useT();
  const box = useRef<HTMLDivElement>(null);
  const [follow, setFollow] = useState(line === null);
  const base = line === null ? Math.max(0, total - MAX_SHOWN) : Math.max(0, Math.min(line - 1, total - MAX_SHOWN));
  const count = Math.min(total, MAX_SHOWN);
  const virtual = useVirtualizer({
    count,
    getScrollElement: () => box.current,
    estimateSize: () => LINE_PX,
    overscan: 30,
    initialOffset: follow ? count * LINE_PX : Math.max(0, ((line ?? 1) - base - 8) * LINE_PX),
  });
  const items = virtual.getVirtualItems();
  const lines = useLines(job, base + (items[0]?.index ?? 0) + 1, base + (items.at(-1)?.index ?? 0) + 1, tail);

  useEffect(() => {
    if (follow) virtual.scrollToIndex(count - 1, { align: 'end' });
  }, [follow, count, virtual]);
  useEffect(() => {
    if (line === null) return;
    setFollow(false);
    virtual.scrollToIndex(Math.min(count, line - base) - 1, { align: 'center' });
    // eslint-disable-next-line react-hooks/exhaustive-deps -- only a change of the line scrolls to it
  }, [line]);

  const onScroll = () => {
    const element = box.current;
    if (element) setFollow(element.scrollTop + element.clientHeight >= element.scrollHeight - 2 * LINE_PX);
  };
  return (
    <>
      <div ref={box} className="log" tabIndex={0} role="region" aria-label={t('job.log')} onScroll={onScroll}>
        <div className="log-space" style={{ height: virtual.getTotalSize() }}>
          {items.map((item) => (
            <Line
              key={item.key}
              number={base + item.index + 1}
              line={lines.get(base + item.index + 1)}
              top={item.start}
              query={query}
              details={details}
              chosen={base + item.index + 1 === line}
              choose={choose}
            />
          ))}
        </div>
      </div>
      <div className="row-apart small muted tabular">
        <span>
          {t('log.lines', { count: formatCount(total) })}
          {base > 0 && ` · ${t('log.part', { first: formatCount(base + 1) })}`}
        </span>
        <button type="button" className="button small" disabled={follow} onClick={() => setFollow(true)}>
          {t('log.end')}
        </button>
      </div>
    </>
  );
}

interface LineProps {
  number: number;
  line: LogLine | undefined;
  top: number;
  query: string;
  details: boolean;
  chosen: boolean;
  choose: (line: number) => void;
}

function Line({ number, line, top, query, details, chosen, choose }: LineProps) {
  const t = useT();
  return (
    <div
      className="log-line"
      data-stream={line?.stream}
      aria-current={chosen || undefined}
      style={{ transform: `translateY(${top}px)` }}
    >
      <button type="button" tabIndex={-1} aria-label={t('log.link', { line: number })} onClick={() => choose(number)}>
        {number}
      </button>
      {details && line && <span className="muted">{formatTime(line.created_at)} </span>}
      <span>{line ? <Marked text={line.text} query={query} /> : '…'}</span>
    </div>
  );
}
