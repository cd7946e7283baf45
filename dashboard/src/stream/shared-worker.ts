import { Hub, type TabMessage } from './hub';

/** One instance per browser: all tabs connect to it. */
const hub = new Hub('/v1/events');

interface SharedScope {
  onconnect: ((event: MessageEvent) => void) | null;
}

(globalThis as unknown as SharedScope).onconnect = (event) => {
  const port = event.ports[0];
  if (port) port.onmessage = (message: MessageEvent<TabMessage>) => hub.receive(port, message.data);
};
