import { useQueryClient } from '@tanstack/react-query';
import { createContext, type ReactNode, use, useEffect, useState } from 'react';

import { Applier } from './apply';
import { connectTab } from './connect';
import type { FeedState } from './feed';

const Context = createContext<FeedState>('connecting');

/** Keeps the data of the page up to date while it is visible. */
export function LiveProvider({ children, onSignedOut }: { children: ReactNode; onSignedOut: () => void }) {
  const client = useQueryClient();
  const [state, setState] = useState<FeedState>('connecting');
  useEffect(() => {
    const applier = new Applier(client);
    return connectTab((message) => {
      if (message.type === 'events') applier.apply(message.events);
      else if (message.type === 'reset') applier.reset();
      else if (message.state === 'signed-out') onSignedOut();
      else setState(message.state);
    });
  }, [client, onSignedOut]);
  return <Context value={state}>{children}</Context>;
}

export function useFeedState(): FeedState {
  return use(Context);
}
