export type Range = [number, number];

/** The range of steps that all charts show. Charts update immediately; finer data is loaded once the range is stable. */
export class ViewRange {
  private readonly followers = new Set<(range: Range) => void>();
  private readonly resting = new Set<() => void>();
  private timer: ReturnType<typeof setTimeout> | undefined;
  private range: Range | null = null;
  private rested: Range | null = null;
  private whole: Range = [0, 1];

  get current(): Range {
    return this.range ?? this.whole;
  }

  /** Set the range of existing steps; if all steps are shown, the range grows with the run. */
  cover(first: number, last: number): void {
    if (this.whole[0] === first && this.whole[1] === last) return;
    this.whole = [first, last];
    if (this.range === null) for (const follower of this.followers) follower(this.whole);
  }

  /** The visible range; null if the whole run is shown. */
  readonly getRested = (): Range | null => this.rested;

  readonly onRest = (listener: () => void): (() => void) => {
    this.resting.add(listener);
    return () => this.resting.delete(listener);
  };

  follow(follower: (range: Range) => void): () => void {
    this.followers.add(follower);
    return () => this.followers.delete(follower);
  }

  show(range: Range | null): void {
    this.range = range && this.limit(range);
    for (const follower of this.followers) follower(this.current);
    clearTimeout(this.timer);
    this.timer = setTimeout(() => {
      this.rested = this.range;
      for (const listener of this.resting) listener();
    }, 150);
  }

  pan(fraction: number): void {
    const [low, high] = this.current;
    const shift = (high - low) * fraction;
    this.show([low + shift, high + shift]);
  }

  /** Zoom by a factor (below 1 zooms in) around a position in the range, from 0 to 1. */
  zoom(factor: number, around = 0.5): void {
    const [low, high] = this.current;
    const centre = low + (high - low) * around;
    this.show([centre - (centre - low) * factor, centre + (high - centre) * factor]);
  }

  private limit([low, high]: Range): Range | null {
    const [first, last] = this.whole;
    const width = Math.max(4, high - low);
    if (width >= last - first) return null;
    const start = Math.min(Math.max(low, first), last - width);
    return [start, start + width];
  }
}
