/** Where a transaction leads. */
export interface Destination {
  /** Destinations with the same key are the same. */
  readonly key: string;
  /** A transaction has one recipient: LMTP has a reply for each, and the client awaits one. */
  readonly takesOneRecipient: boolean;
}

/** The destinations of senders and recipients. */
export interface RouteTable<D extends Destination> {
  /** Whether a destination depends on the recipient. */
  readonly hasRecipients: boolean;
  /**
   * @param sender a mailbox, '' for the null sender.
   * @param recipient undefined unless `hasRecipients`.
   * @returns undefined if there is no route.
   */
  find(sender: string, recipient: string | undefined): D | undefined;
}

/** All mail has the same destination. */
export interface OneDestination<D extends Destination> {
  readonly only: D;
}

/** Mail has one destination or another. */
export interface Routes<D extends Destination> {
  /** The routes as they are now. Called with each MAIL. */
  table(): RouteTable<D>;
  /** What is offered in reply to EHLO. */
  readonly offers: readonly string[];
}
