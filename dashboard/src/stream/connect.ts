import { Hub, type HubMessage, type TabMessage } from './hub';

/**
 * Connect this tab to the browser's shared stream. Without SharedWorker (Chrome on Android), each tab has its own.
 *
 * Returns a function that disconnects.
 */
export function connectTab(receive: (message: HubMessage) => void): () => void {
  const send = openHub(receive);
  const tell = () => send(document.visibilityState === 'visible' ? 'visible' : 'hidden');
  const leave = () => send('hidden');
  document.addEventListener('visibilitychange', tell);
  window.addEventListener('pagehide', leave);
  window.addEventListener('pageshow', tell);
  tell();
  return () => {
    document.removeEventListener('visibilitychange', tell);
    window.removeEventListener('pagehide', leave);
    window.removeEventListener('pageshow', tell);
    leave();
  };
}

function openHub(receive: (message: HubMessage) => void): (message: TabMessage) => void {
  if (typeof SharedWorker === 'undefined') {
    const hub = new Hub('/v1/events');
    const tab = { postMessage: receive };
    return (message) => hub.receive(tab, message);
  }
  const worker = new SharedWorker(new URL('./shared-worker.ts', import.meta.url), {
    type: 'module',
    name: 'baichuan-events',
  });
  worker.port.onmessage = (event: MessageEvent<HubMessage>) => receive(event.data);
  return (message) => worker.port.postMessage(message);
}
