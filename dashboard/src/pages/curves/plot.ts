import 'uplot/dist/uPlot.min.css';

import uPlot from 'uplot';

import { formatNamed } from '@/ui/format';

import type { CursorStore, CursorValues } from './readout';
import { align, type Curve, type Line } from './series';
import type { ViewRange } from './view-range';

export interface Palette {
  lines: string[];
  text: string;
  grid: string;
  bad: string;
}

/** The theme's colours in a format that canvases support, computed by the browser for an element. */
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
const GATHER_MS = 100; // new points of several runs arrive one after the other and are drawn at once
const RAW_WIDTH = 1; // without a GPU, wider lines take many times as long to draw (benchmarks/dashboard_page.py)
const FEW_POINTS = 40; // short lines are drawn with points, because a single value would be invisible

export interface PlotSettings {
  name: string;
  colors: number[];
  logarithmic: boolean;
  palette: Palette;
  cursor: CursorStore;
}

/** A chart of curves that shows the range of steps shared by all charts. */
export class MetricPlot {
  private readonly plot: uPlot;
  private readonly unfollow: () => void;
  private readonly observer: ResizeObserver;
  private frame = 0;
  private redraw: ReturnType<typeof setTimeout> | undefined;

  constructor(
    target: HTMLElement,
    private readonly view: ViewRange,
    private curves: Curve[],
    private readonly settings: PlotSettings,
  ) {
    this.plot = new uPlot(this.options(target.clientWidth), toData(curves), target);
    this.addNavigation();
    this.unfollow = view.follow(() => this.follow());
    this.observer = new ResizeObserver(() => this.plot.setSize({ width: target.clientWidth, height: HEIGHT }));
    this.observer.observe(target);
  }

  update(curves: Curve[]): void {
    this.curves = curves;
    this.redraw ??= setTimeout(() => {
      this.redraw = undefined;
      this.plot.setData(toData(this.curves));
    }, GATHER_MS);
  }

  destroy(): void {
    this.unfollow();
    cancelAnimationFrame(this.frame);
    clearTimeout(this.redraw);
    this.settings.cursor.clear();
    this.observer.disconnect();
    this.plot.destroy();
  }

  private options(width: number): uPlot.Options {
    const { palette, logarithmic } = this.settings;
    const font = '12px system-ui, sans-serif';
    const axis = { stroke: palette.text, font, grid: { stroke: palette.grid, width: 1 }, ticks: { show: false } };
    return {
      width,
      height: HEIGHT,
      series: this.series(),
      legend: { show: false },
      cursor: { sync: { key: 'curves' }, drag: { x: false, y: false } },
      scales: { x: { time: false, range: () => this.view.current }, y: logarithmic ? { distr: 3 } : {} },
      axes: [
        { ...axis, size: 32 },
        {
          ...axis,
          size: 64,
          values: (_, ticks) => ticks.map((tick) => (tick === null ? '' : formatNamed(this.settings.name, tick))),
        },
      ],
      hooks: {
        draw: [() => this.drawNan()],
        setCursor: [() => this.settings.cursor.set(() => this.readCursor())],
      },
    };
  }

  /** Raw lines are fainter than the smoothed ones. */
  private series(): uPlot.Series[] {
    const { colors, palette } = this.settings;
    return [
      {},
      ...this.curves.flatMap((curve, at): uPlot.Series[] => {
        const stroke = palette.lines[(colors[at] ?? at) % palette.lines.length] ?? palette.text;
        const points = { show: curve.raw.x.length < FEW_POINTS };
        if (!curve.smooth) return [{ stroke, width: RAW_WIDTH, points }];
        return [
          { stroke, width: RAW_WIDTH, alpha: 0.35, points },
          { stroke, width: 2, points: { show: false } },
        ];
      }),
    ];
  }

  /** Mark the steps whose values are NaN or infinite on the lower edge. */
  private drawNan(): void {
    const { ctx, bbox } = this.plot;
    const size = 4 * devicePixelRatio;
    const bottom = bbox.top + bbox.height;
    ctx.save();
    ctx.fillStyle = this.settings.palette.bad;
    for (const step of this.curves.flatMap((curve) => curve.nan)) {
      const x = this.plot.valToPos(step, 'x', true);
      if (x < bbox.left || x > bbox.left + bbox.width) continue;
      ctx.beginPath();
      ctx.moveTo(x, bottom - 2.5 * size);
      ctx.lineTo(x - size, bottom);
      ctx.lineTo(x + size, bottom);
      ctx.fill();
    }
    ctx.restore();
  }

  /** Redraw at most once per frame, even if the range changes more often. */
  private follow(): void {
    cancelAnimationFrame(this.frame);
    this.frame = requestAnimationFrame(() => {
      const [min, max] = this.view.current;
      this.plot.setScale('x', { min, max });
    });
  }

  private readCursor(): CursorValues | null {
    const { left } = this.plot.cursor;
    if (left === undefined || left === null || left < 0) return null;
    const step = this.plot.posToVal(left, 'x');
    const values = this.curves.map((curve) => nearestValue(curve.smooth ?? curve.raw, step));
    return { step: Math.round(step), values };
  }

  /** Drag to pan, Ctrl and wheel to zoom, double click to show everything. */
  private addNavigation(): void {
    const { over } = this.plot;
    let from: number | null = null;
    over.addEventListener('pointerdown', (event) => {
      from = event.clientX;
      over.setPointerCapture(event.pointerId);
    });
    over.addEventListener('pointermove', (event) => {
      if (from === null) return;
      this.view.pan((from - event.clientX) / over.clientWidth);
      from = event.clientX;
    });
    over.addEventListener('pointerup', () => (from = null));
    over.addEventListener('dblclick', () => this.view.show(null));
    const zoom = (event: WheelEvent) => {
      if (!event.ctrlKey && !event.shiftKey) return; // let the page scroll
      event.preventDefault();
      const at = (event.clientX - over.getBoundingClientRect().left) / over.clientWidth;
      this.view.zoom((event.deltaY || event.deltaX) > 0 ? 1.25 : 0.8, at);
    };
    over.addEventListener('wheel', zoom, { passive: false });
  }
}

function toData(curves: Curve[]): uPlot.AlignedData {
  return align(
    curves.flatMap((curve) => (curve.smooth ? [curve.raw, curve.smooth] : [curve.raw])),
  ) as uPlot.AlignedData;
}

/** The value of a line at the step nearest to `step`. */
export function nearestValue({ x, y }: Line, step: number): number | null {
  let [low, high] = [0, x.length - 1];
  while (low < high) {
    const middle = (low + high) >> 1;
    if ((x[middle] ?? 0) < step) low = middle + 1;
    else high = middle;
  }
  const before = low > 0 && step - (x[low - 1] ?? 0) < (x[low] ?? Infinity) - step ? low - 1 : low;
  return y[before] ?? null;
}
