import 'uplot/dist/uPlot.min.css';

import uPlot from 'uplot';

import { formatMetric } from '@/ui/format';

import { align, type Curve } from './series';
import type { ViewRange } from './view-range';

export interface Palette {
  lines: string[];
  text: string;
  grid: string;
  bad: string;
}

/** The theme's colours as a canvas can use them: resolved by the browser on an element. */
export function readPalette(): Palette {
  const probe = document.createElement('span');
  document.body.append(probe);
  const read = (name: string) => {
    probe.style.color = `var(${name})`;
    return getComputedStyle(probe).color;
  };
  const palette = {
    lines: Array.from({ length: 8 }, (_, index) => read(`--series-${index + 1}`)),
    text: read('--muted'),
    grid: read('--line'),
    bad: read('--bad'),
  };
  probe.remove();
  return palette;
}

const HEIGHT = 220;

export interface PlotSettings {
  curves: Curve[];
  names: string[];
  colors: number[];
  logarithmic: boolean;
  palette: Palette;
  onCursor: (step: number | null, values: (number | null)[]) => void;
}

/** Draw curves into an element; returns the plot. Raw lines are faint if there are smooth ones. */
export function createPlot(target: HTMLElement, view: ViewRange, settings: PlotSettings): uPlot {
  const { curves, palette, colors, logarithmic } = settings;
  const smoothed = curves.some((curve) => curve.smooth);
  const font = '12px system-ui, sans-serif';
  const axis = { stroke: palette.text, font, grid: { stroke: palette.grid, width: 1 }, ticks: { show: false } };
  const series: uPlot.Series[] = [{}];
  curves.forEach((curve, at) => {
    const stroke = palette.lines[(colors[at] ?? at) % palette.lines.length] ?? palette.text;
    series.push({ stroke, width: 1.25, alpha: smoothed ? 0.35 : 1, points: { show: curve.raw.x.length < 40 } });
    if (curve.smooth) series.push({ stroke, width: 2, points: { show: false } });
  });
  const plot = new uPlot(
    {
      width: target.clientWidth,
      height: HEIGHT,
      series,
      legend: { show: false },
      cursor: { sync: { key: 'curves' }, drag: { x: false, y: false }, points: { size: 6 } },
      scales: {
        x: { time: false, range: () => view.current },
        y: logarithmic ? { distr: 3 } : {},
      },
      axes: [
        { ...axis, size: 32 },
        { ...axis, size: 64, values: (_, ticks) => ticks.map((tick) => (tick === null ? '' : formatMetric(tick))) },
      ],
      hooks: {
        draw: [(drawn) => drawNan(drawn, curves, palette.bad)],
        setCursor: [(moved) => reportCursor(moved, settings)],
      },
    },
    toData(curves),
    target,
  );
  addNavigation(plot, view);
  return plot;
}

export function toData(curves: Curve[]): uPlot.AlignedData {
  return align(curves.flatMap((curve) => (curve.smooth ? [curve.raw, curve.smooth] : [curve.raw]))) as uPlot.AlignedData;
}

/** Mark the steps whose values are NaN or infinite on the lower edge. */
function drawNan(plot: uPlot, curves: Curve[], color: string): void {
  const { ctx, bbox } = plot;
  ctx.save();
  ctx.fillStyle = color;
  for (const step of curves.flatMap((curve) => curve.nan)) {
    const x = plot.valToPos(step, 'x', true);
    if (x < bbox.left || x > bbox.left + bbox.width) continue;
    const bottom = bbox.top + bbox.height;
    ctx.beginPath();
    ctx.moveTo(x, bottom - 10 * devicePixelRatio);
    ctx.lineTo(x - 4 * devicePixelRatio, bottom);
    ctx.lineTo(x + 4 * devicePixelRatio, bottom);
    ctx.fill();
  }
  ctx.restore();
}

function reportCursor(plot: uPlot, { curves, onCursor }: PlotSettings): void {
  const { left } = plot.cursor;
  if (left === undefined || left === null || left < 0) {
    onCursor(null, []);
    return;
  }
  const step = plot.posToVal(left, 'x');
  onCursor(Math.round(step), curves.map((curve) => nearest((curve.smooth ?? curve.raw).x, (curve.smooth ?? curve.raw).y, step)));
}

function nearest(x: number[], y: (number | null)[], step: number): number | null {
  let [low, high] = [0, x.length - 1];
  while (low < high) {
    const middle = (low + high) >> 1;
    if ((x[middle] ?? 0) < step) low = middle + 1;
    else high = middle;
  }
  const before = low > 0 && step - (x[low - 1] ?? 0) < (x[low] ?? Infinity) - step ? low - 1 : low;
  return y[before] ?? null;
}

/** Drag to pan, Ctrl and wheel to zoom, double click to see everything. */
function addNavigation(plot: uPlot, view: ViewRange): void {
  const { over } = plot;
  let from: number | null = null;
  over.addEventListener('pointerdown', (event) => {
    from = event.clientX;
    over.setPointerCapture(event.pointerId);
  });
  over.addEventListener('pointermove', (event) => {
    if (from === null) return;
    view.pan((from - event.clientX) / over.clientWidth);
    from = event.clientX;
  });
  over.addEventListener('pointerup', () => (from = null));
  over.addEventListener('dblclick', () => view.show(null));
  over.addEventListener(
    'wheel',
    (event) => {
      if (!event.ctrlKey && !event.shiftKey) return; // the page scrolls
      event.preventDefault();
      const delta = event.deltaY || event.deltaX;
      const at = (event.clientX - over.getBoundingClientRect().left) / over.clientWidth;
      view.zoom(delta > 0 ? 1.25 : 0.8, at);
    },
    { passive: false },
  );
}
