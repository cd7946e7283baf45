import type { Schema } from '@/api/client';

export type MetricSeries = Schema<'MetricSeries'>;

/** The points of a line, in order of steps; null interrupts the line. */
export interface Line {
  x: number[];
  y: (number | null)[];
}

export interface Curve {
  raw: Line;
  smooth: Line | null;
  /** Steps at which values were NaN or infinite. */
  nan: number[];
}

/** Replace a range of a coarse series by a finer one. */
export function refine(
  coarse: MetricSeries,
  fine: MetricSeries | undefined,
  start: number,
  stop: number,
): MetricSeries {
  if (!fine) return coarse;
  const before = coarse.last_step.findIndex((step) => step >= start);
  const head = before === -1 ? coarse.first_step.length : before;
  const after = coarse.first_step.findIndex((step) => step >= stop);
  const tail = after === -1 ? coarse.first_step.length : after;
  const join = <T>(name: 'first_step' | 'last_step' | 'count' | 'nan' | 'min' | 'max' | 'mean') =>
    [...coarse[name].slice(0, head), ...fine[name], ...coarse[name].slice(Math.max(head, tail))] as T[];
  return {
    name: coarse.name,
    points: coarse.points,
    first_step: join('first_step'),
    last_step: join('last_step'),
    count: join('count'),
    nan: join('nan'),
    min: join('min'),
    max: join('max'),
    mean: join('mean'),
  };
}

/** Convert a series to a line; each bucket contributes its minimum and its maximum, so that no peak is lost. */
export function toCurve(series: MetricSeries, smoothing: number, logarithmic: boolean): Curve {
  const raw: Line = { x: [], y: [] };
  const nan: number[] = [];
  const shown = (value: number | null) => (value !== null && (!logarithmic || value > 0) ? value : null);
  series.first_step.forEach((first, at) => {
    const last = series.last_step[at] ?? first;
    const [low, high] = [series.min[at] ?? null, series.max[at] ?? null];
    if ((series.nan[at] ?? 0) > 0) nan.push(first);
    raw.x.push(first);
    raw.y.push(shown(low));
    if (last > first) {
      raw.x.push(last);
      raw.y.push(shown(high));
    } else if (high !== low) {
      raw.x.push(first + 0.5);
      raw.y.push(shown(high));
    }
  });
  return { raw, smooth: smoothing > 0 ? smooth(series, smoothing, shown) : null, nan };
}

/**
 * Exponential moving average with a time constant in steps, so that the line does not depend on the zoom.
 *
 * It is divided by the sum of its weights (the bias correction of Adam), so that it does not start near zero.
 */
function smooth(series: MetricSeries, steps: number, shown: (value: number | null) => number | null): Line {
  const line: Line = { x: [], y: [] };
  let average = 0;
  let weight = 0;
  let previous = series.first_step[0] ?? 0;
  series.mean.forEach((value, at) => {
    const step = ((series.first_step[at] ?? 0) + (series.last_step[at] ?? 0)) / 2;
    if (value === null || value === undefined) return;
    const keep = Math.exp(-Math.max(1, step - previous) / steps);
    average = keep * average + (1 - keep) * value;
    weight = keep * weight + (1 - keep);
    previous = step;
    line.x.push(step);
    line.y.push(shown(average / weight));
  });
  return line;
}

/** Align lines with different steps for uPlot, as columns over one list of steps; undefined continues the line. */
export function align(lines: Line[]): [number[], ...(number | null | undefined)[][]] {
  const steps = [...new Set(lines.flatMap((line) => line.x))].sort((a, b) => a - b);
  const place = new Map(steps.map((step, at) => [step, at]));
  const columns = lines.map((line) => {
    const column = new Array<number | null | undefined>(steps.length).fill(undefined);
    line.x.forEach((step, at) => {
      column[place.get(step) ?? 0] = line.y[at];
    });
    return column;
  });
  return [steps, ...columns];
}

const ORDER = ['loss', 'eval_loss', 'learning_rate', 'grad_norm', 'tokens_per_second'];

/** Whether a metric is always shown; others are shown on request. */
export function isMain(name: string): boolean {
  return ORDER.includes(name);
}

/** Sort names of metrics: known ones first, in a fixed order. */
export function sortNames(names: Iterable<string>): string[] {
  const rank = (name: string) => (ORDER.includes(name) ? ORDER.indexOf(name) : ORDER.length);
  return [...new Set(names)].sort((a, b) => rank(a) - rank(b) || a.localeCompare(b));
}
