import type { Schema } from '@/api/client';

/** A worker whose runners keep a model loaded. */
export interface WarmPlace {
  worker: string;
  state: 'idle' | 'busy';
}

/** Where each model is loaded: as a model of its own, or as the adapter on one. A busy runner wins over an idle one. */
export function findWarmPlaces(workers: Schema<'WorkerObject'>[]): Map<string, WarmPlace[]> {
  const places = new Map<string, WarmPlace[]>();
  for (const worker of workers) {
    for (const { id, adapter, state } of worker.models) {
      for (const name of [id, adapter]) {
        if (name === null) continue;
        const known = places.get(name) ?? [];
        const here = known.find((place) => place.worker === worker.id);
        if (!here) places.set(name, [...known, { worker: worker.id, state }]);
        else if (state === 'busy') here.state = state;
      }
    }
  }
  return places;
}
