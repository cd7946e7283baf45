import { describe, expect, it, vi } from 'vitest';

import { align, type MetricSeries, refine, sortNames, toCurve } from '@/pages/curves/series';
import { differingFields } from '@/pages/curves/differences';
import { ViewRange } from '@/pages/curves/view-range';

/** A series as the service thins it: buckets of `size` steps that keep minimum, maximum and mean. */
function thin(values: number[], size: number, offset = 0): MetricSeries {
  const series: MetricSeries = {
    name: 'loss',
    points: values.length,
    first_step: [],
    last_step: [],
    count: [],
    nan: [],
    min: [],
    max: [],
    mean: [],
  };
  for (let start = 0; start < values.length; start += size) {
    const part = values.slice(start, start + size);
    const finite = part.filter(Number.isFinite);
    series.first_step.push(offset + start);
    series.last_step.push(offset + start + part.length - 1);
    series.count.push(part.length);
    series.nan.push(part.length - finite.length);
    series.min.push(finite.length > 0 ? Math.min(...finite) : null);
    series.max.push(finite.length > 0 ? Math.max(...finite) : null);
    series.mean.push(finite.length > 0 ? finite.reduce((a, b) => a + b, 0) / finite.length : null);
  }
  return series;
}

describe('toCurve', () => {
  it('shows a spike of one step at every zoom', () => {
    const values = Array.from({ length: 10_000 }, () => 1);
    values[5432] = 50;
    for (const size of [1, 7, 100, 2500]) {
      expect(Math.max(...toCurve(thin(values, size), 0, false).raw.y.map(Number))).toBe(50);
    }
  });

  it('marks steps that are NaN, also if a whole bucket is', () => {
    const curve = toCurve(thin([1, NaN, 2, 3, NaN, NaN], 2), 0, false);
    expect(curve.nan).toEqual([0, 4]);
    expect(curve.raw.y.at(-1)).toBeNull();
  });

  it('leaves out what a logarithmic scale cannot show', () => {
    expect(toCurve(thin([1, 0, -1, 4], 1), 0, true).raw.y).toEqual([1, null, null, 4]);
  });

  it('smooths a constant line to itself, at every zoom', () => {
    for (const size of [1, 10]) {
      const smooth = toCurve(thin(new Array<number>(100).fill(3), size), 20, false).smooth;
      for (const value of smooth?.y ?? [0]) expect(value).toBeCloseTo(3);
    }
  });
});

describe('refine', () => {
  it('replaces the coarse part by the fine one', () => {
    const values = Array.from({ length: 100 }, (_, step) => step);
    const refined = refine(thin(values, 20), thin(values.slice(40, 60), 1, 40), 40, 60);
    expect(refined.first_step.slice(0, 4)).toEqual([0, 20, 40, 41]);
    expect(refined.first_step.at(-1)).toBe(80);
    expect(refined.first_step).toEqual([...refined.first_step].sort((a, b) => a - b));
  });
});

describe('align', () => {
  it('puts lines with different steps over one list of steps', () => {
    const [steps, a, b] = align([
      { x: [1, 3], y: [10, 30] },
      { x: [2, 3], y: [20, null] },
    ]);
    expect(steps).toEqual([1, 2, 3]);
    expect(a).toEqual([10, undefined, 30]);
    expect(b).toEqual([undefined, 20, null]);
  });
});

describe('ViewRange', () => {
  it('moves charts at once, stays inside the run, and reports when it rests', () => {
    vi.useFakeTimers();
    const view = new ViewRange();
    view.cover(0, 1000);
    const seen: [number, number][] = [];
    const rested = vi.fn();
    view.follow((range) => seen.push(range));
    view.onRest(rested);
    view.zoom(0.5);
    view.pan(10);
    expect(seen).toEqual([
      [250, 750],
      [500, 1000],
    ]);
    expect(rested).not.toHaveBeenCalled();
    vi.advanceTimersByTime(200);
    expect(rested).toHaveBeenCalledTimes(1);
    expect(view.getRested()).toEqual([500, 1000]);
    view.show(null);
    expect(view.current).toEqual([0, 1000]);
    vi.useRealTimers();
  });
});

describe('comparing runs', () => {
  it('lists the fields that differ', () => {
    const specs = [
      { epochs: 3, model: 'a' },
      { epochs: 4, model: 'a', seed: 1 },
    ];
    expect(differingFields(specs)).toEqual([
      { field: 'epochs', values: [3, 4] },
      { field: 'seed', values: [undefined, 1] },
    ]);
  });

  it('orders metrics with the known ones first', () => {
    expect(sortNames(['zeta', 'learning_rate', 'alpha', 'loss'])).toEqual(['loss', 'learning_rate', 'alpha', 'zeta']);
  });
});
