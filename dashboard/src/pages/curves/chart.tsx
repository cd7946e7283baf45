import { type KeyboardEvent, useEffect, useEffectEvent, useRef, useState } from 'react';

import { useT } from '@/i18n';

import { MetricPlot, readPalette } from './plot';
import { CursorStore, Readout } from './readout';
import { type MetricSeries, toCurve } from './series';
import type { ViewRange } from './view-range';

interface Props {
  name: string;
  title: string;
  /** The series of each run; undefined if the run has not logged this metric. */
  series: (MetricSeries | undefined)[];
  /** The positions of the runs in the selection, which determine their colours. */
  runs: number[];
  smoothing: number;
  logarithmic: boolean;
  view: ViewRange;
  theme: number;
}

/** A chart of one metric of all runs. Keys: arrows pan, + and − zoom, 0 shows everything. */
export function Chart({ name, title, series, runs, smoothing, logarithmic, view, theme }: Props) {
  const t = useT();
  const target = useRef<HTMLDivElement>(null);
  const plot = useRef<MetricPlot | null>(null);
  const [cursor] = useState(() => new CursorStore());
  const logged = series.flatMap((each, at) => (each ? [{ each, color: runs[at] ?? at }] : []));
  const curves = logged.map(({ each }) => toCurve(each, smoothing, logarithmic));
  const colors = logged.map(({ color }) => color);
  const shape = `${colors.join()}|${smoothing > 0}|${logarithmic}|${theme}`;
  const points = logged.map(({ each }) => `${each.points}:${each.first_step.length}:${each.first_step[0]}`).join();

  const create = useEffectEvent((element: HTMLElement) => {
    return new MetricPlot(element, view, curves, { name, colors, logarithmic, palette: readPalette(), cursor });
  });
  useEffect(() => {
    if (!target.current) return undefined;
    const made = create(target.current);
    plot.current = made;
    return () => {
      made.destroy();
      plot.current = null;
    };
  }, [shape, view]);

  const update = useEffectEvent(() => plot.current?.update(curves));
  useEffect(() => update(), [points, smoothing]);

  const nan = curves.reduce((sum, curve) => sum + curve.nan.length, 0);
  return (
    <figure className="card chart">
      <figcaption className="row-apart">
        <h2>{title}</h2>
        <Readout name={name} cursor={cursor} nan={nan} />
      </figcaption>
      <div
        ref={target}
        className="plot"
        role="img"
        aria-label={t('curves.label', { metric: title, runs: logged.length })}
        tabIndex={0}
        onKeyDown={(event) => navigate(event, view)}
      />
    </figure>
  );
}

function navigate(event: KeyboardEvent, view: ViewRange): void {
  const actions: Record<string, () => void> = {
    ArrowLeft: () => view.pan(-0.1),
    ArrowRight: () => view.pan(0.1),
    '+': () => view.zoom(0.8),
    '=': () => view.zoom(0.8),
    '-': () => view.zoom(1.25),
    '0': () => view.show(null),
  };
  const action = actions[event.key];
  if (!action) return;
  event.preventDefault();
  action();
}
