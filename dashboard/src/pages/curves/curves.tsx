import { useEffect, useState } from 'react';

import { useT } from '@/i18n';
import { metricLabel } from '@/i18n/metrics';
import { Empty, ErrorNotice, Skeleton } from '@/ui/basics';

import { Chart } from './chart';
import { isMain, sortNames } from './series';
import { type Run, useRuns } from './use-metrics';
import { ViewRange } from './view-range';

const SMOOTHINGS = [0, 10, 100, 1000, 10_000];

/** A number that changes with the theme, so that canvases are redrawn. */
function useThemeCount(): number {
  const [count, setCount] = useState(0);
  useEffect(() => {
    const change = () => setCount((old) => old + 1);
    const system = window.matchMedia('(prefers-color-scheme: dark)');
    system.addEventListener('change', change);
    window.addEventListener('themechange', change);
    return () => {
      system.removeEventListener('change', change);
      window.removeEventListener('themechange', change);
    };
  }, []);
  return count;
}

/** The metrics of one or more runs, one chart per metric. */
export function Curves({ ids }: { ids: string[] }) {
  const t = useT();
  const [view] = useState(() => new ViewRange());
  const [logarithmic, setLogarithmic] = useState(false);
  const [smoothing, setSmoothing] = useState(0);
  const [all, setAll] = useState(false);
  const { runs, pending, error } = useRuns(ids, view);
  const logged = runs.filter((run) => run.first !== null);
  const first = Math.min(...logged.map((run) => run.first ?? 0));
  const last = Math.max(1, ...logged.map((run) => run.last ?? 0));
  useEffect(() => {
    if (Number.isFinite(first)) view.cover(first, last);
  }, [view, first, last]);
  if (pending) return <Skeleton lines={2} height={280} />;
  if (error) return <ErrorNotice error={error} />;
  if (logged.length === 0) return <Empty title={t('curves.none')}>{t('curves.none.text')}</Empty>;
  return (
    <div className="stack">
      <div className="row">
        <label className="check">
          <input type="checkbox" checked={logarithmic} onChange={(event) => setLogarithmic(event.target.checked)} />
          {t('curves.log')}
        </label>
        <label className="inline-field">
          {t('curves.smoothing')}
          <select value={smoothing} onChange={(event) => setSmoothing(Number(event.target.value))}>
            {SMOOTHINGS.map((steps) => (
              <option key={steps} value={steps}>
                {steps === 0 ? t('curves.raw') : t('curves.steps', { count: steps })}
              </option>
            ))}
          </select>
        </label>
        <label className="check">
          <input type="checkbox" checked={all} onChange={(event) => setAll(event.target.checked)} />
          {t('curves.more')}
        </label>
        <button type="button" className="button small" onClick={() => view.show(null)}>
          {t('curves.all')}
        </button>
        <span className="small muted">{t('curves.hint')}</span>
      </div>
      <Charts runs={logged} ids={ids} view={view} logarithmic={logarithmic} smoothing={smoothing} all={all} />
    </div>
  );
}

interface ChartsProps {
  runs: Run[];
  ids: string[];
  view: ViewRange;
  logarithmic: boolean;
  smoothing: number;
  all: boolean;
}

function Charts({ runs, ids, view, logarithmic, smoothing, all }: ChartsProps) {
  const t = useT();
  const theme = useThemeCount();
  const names = sortNames(runs.flatMap((run) => run.names)).filter((name) => all || isMain(name));
  return (
    <>
      {ids.length > 1 && (
        <div className="legend">
          {ids.map((id, at) => (
            <span key={id}>
              <span className={`swatch tone-${(at % 8) + 1}`} />
              <code>{id.slice(-8)}</code>
            </span>
          ))}
        </div>
      )}
      <div className="charts">
        {names.map((name) => (
          <Chart
            key={name}
            name={name}
            title={metricLabel(name, t)}
            series={runs.map((run) => run.series.get(name))}
            runs={runs.map((run) => ids.indexOf(run.id))}
            smoothing={smoothing}
            logarithmic={logarithmic}
            view={view}
            theme={theme}
          />
        ))}
      </div>
    </>
  );
}
