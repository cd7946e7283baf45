import { useSyncExternalStore } from 'react';

import { useT } from '@/i18n';
import { formatCount, formatNamed } from '@/ui/format';

export interface CursorValues {
  step: number;
  values: (number | null)[];
}

/** The position of the pointer in a chart. It is not React state, so that only the readout renders when it moves. */
export class CursorStore {
  private readonly listeners = new Set<() => void>();
  private current: CursorValues | null = null;
  private frame = 0;

  readonly get = (): CursorValues | null => this.current;

  readonly subscribe = (listener: () => void): (() => void) => {
    this.listeners.add(listener);
    return () => this.listeners.delete(listener);
  };

  /** Publish only the values of the last call before each animation frame. */
  set(read: () => CursorValues | null): void {
    cancelAnimationFrame(this.frame);
    this.frame = requestAnimationFrame(() => {
      const values = read();
      if (values === null && this.current === null) return;
      this.current = values;
      for (const listener of this.listeners) listener();
    });
  }

  clear(): void {
    cancelAnimationFrame(this.frame);
    this.current = null;
  }
}

/** The values of all curves at the pointer; without a pointer, the number of NaN values. */
export function Readout({ name, cursor, nan }: { name: string; cursor: CursorStore; nan: number }) {
  const t = useT();
  const at = useSyncExternalStore(cursor.subscribe, cursor.get);
  return (
    <span className="small muted tabular">
      {at
        ? `${t('curves.step', { step: formatCount(at.step) })} · ${at.values.map((value) => formatNamed(name, value)).join(' · ')}`
        : nan > 0 && <span className="wrong">{t('curves.nan', { count: nan })}</span>}
    </span>
  );
}
