import type UPlot from 'uplot';
import { type KeyboardEvent, useEffect, useRef, useState } from 'react';

import { useT } from '@/i18n';
import { formatCount, formatMetric } from '@/ui/format';

import { createPlot, readPalette, toData } from './plot';
import type { Curve } from './series';
import type { ViewRange } from './view-range';

interface Props {
  title: string;
  curves: Curve[];
  names: string[];
  colors: number[];
  logarithmic: boolean;
  view: ViewRange;
  theme: number;
}

/** One metric of all runs. With the keyboard: arrows pan, + and − zoom, 0 shows everything. */
export function Chart({ title, curves, names, colors, logarithmic, view, theme }: Props) {
  const t = useT();
  const target = useRef<HTMLDivElement>(null);
  const plot = useRef<UPlot | null>(null);
  const [cursor, setCursor] = useState<{ step: number | null; values: (number | null)[] }>({ step: null, values: [] });
  const shape = `${curves.map((curve) => (curve.smooth ? 2 : 1)).join()}|${colors.join()}|${logarithmic}|${theme}`;
  const latest = useRef(curves);
  latest.current = curves;

  useEffect(() => {
    const element = target.current;
    if (!element) return undefined;
    const made = createPlot(element, view, {
      get curves() {
        return latest.current;
      },
      names,
      colors,
      logarithmic,
      palette: readPalette(),
      onCursor: (step, values) => setCursor({ step, values }),
    });
    plot.current = made;
    const unfollow = view.follow(([min, max]) => made.setScale('x', { min, max }));
    const observer = new ResizeObserver(() => made.setSize({ width: element.clientWidth, height: made.height }));
    observer.observe(element);
    return () => {
      unfollow();
      observer.disconnect();
      made.destroy();
      plot.current = null;
    };
    // eslint-disable-next-line react-hooks/exhaustive-deps -- `shape` stands for everything that needs a new plot
  }, [shape, view]);

  useEffect(() => {
    plot.current?.setData(toData(curves));
  }, [curves]);

  const nan = curves.reduce((sum, curve) => sum + curve.nan.length, 0);
  return (
    <figure className="card chart">
      <figcaption className="row-apart">
        <h2>{title}</h2>
        <span className="small muted tabular">
          {cursor.step === null
            ? nan > 0 && <span className="wrong">{t('curves.nan', { count: nan })}</span>
            : `${t('curves.step', { step: formatCount(cursor.step) })} · ${cursor.values.map(formatMetric).join(' · ')}`}
        </span>
      </figcaption>
      <div
        ref={target}
        className="plot"
        role="img"
        aria-label={t('curves.label', { metric: title, runs: names.length })}
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
