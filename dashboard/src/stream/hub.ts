import { Feed, type FeedEvent, type FeedState } from './feed';

/** Messages from a tab: whether it is visible. */
export type TabMessage = 'visible' | 'hidden';

/** Messages to a tab. */
export type HubMessage =
  { type: 'events'; events: FeedEvent[] } | { type: 'reset' } | { type: 'state'; state: FeedState };

export interface Tab {
  postMessage: (message: HubMessage) => void;
}

/** Shares one stream among the visible tabs of a browser, and disconnects while none is visible. */
export class Hub {
  private readonly visible = new Set<Tab>();
  private state: FeedState = 'connecting';
  private readonly feed: Feed;

  constructor(url: string) {
    this.feed = new Feed(url, {
      events: (events) => this.tell({ type: 'events', events }),
      reset: () => this.tell({ type: 'reset' }),
      state: (state) => {
        this.state = state;
        this.tell({ type: 'state', state });
        if (state === 'signed-out') this.feed.stop();
      },
    });
  }

  receive(tab: Tab, message: TabMessage): void {
    if (message === 'hidden') {
      this.visible.delete(tab);
      if (this.visible.size === 0) this.feed.stop();
      return;
    }
    const returned = !this.visible.has(tab);
    this.visible.add(tab);
    if (!this.feed.open) {
      this.feed.start();
    } else if (returned) {
      tab.postMessage({ type: 'state', state: this.state });
      tab.postMessage({ type: 'reset' }); // it missed the events while it was hidden
    }
  }

  private tell(message: HubMessage): void {
    for (const tab of this.visible) tab.postMessage(message);
  }
}
