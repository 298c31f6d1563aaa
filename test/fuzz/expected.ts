import { createPreludeModel, type PreludeModelOptions } from '../support/prelude-model.ts';

/** What a prelude should have sent so far, by the model, when all that was read is processed at once. */
export interface ExpectedPrelude {
  /** All that it should have sent. */
  text(): string;
  /** Whether it awaits a slot, or has ended. */
  state(): 'open' | 'needed' | 'ended';
  /** When smtpd is needed: the EHLO or HELO line with which the client is introduced. */
  hello(): string | undefined;
  read(octets: number): void;
  clientEnded(): void;
  timedOut(): void;
  refuse(reply: string): void;
  /** See `PreludeModel`. */
  rest(isDropped: boolean): string;
}

/**
 * Follows a model.
 *
 * @param stream all that the client will send.
 */
export function expectPrelude(stream: string, options: PreludeModelOptions): ExpectedPrelude {
  const model = createPreludeModel(stream, options);
  let text = '';
  let state: 'open' | 'needed' | 'ended' = 'open';
  let hello: string | undefined;

  function settle(): void {
    const out = model.settle();
    const [, line, end] = /(?:^|\n)(?:\?([^\n]*)|(=))$/.exec(out) ?? [];
    if (line !== undefined) {
      state = 'needed';
      hello = line === 'undefined' ? undefined : line;
    } else if (end !== undefined) state = 'ended';
    text += out.replace(/(?:\?[^\n]*|=)$/, '').replace(/(^|\n)!?S/g, '$1');
  }

  settle();
  return {
    text: () => text,
    state: () => state,
    hello: () => hello,
    read: (octets) => {
      model.read(octets);
      settle();
    },
    clientEnded: () => {
      model.clientEnded();
      settle();
    },
    timedOut: () => {
      model.timedOut();
      settle();
    },
    refuse: (reply) => {
      state = 'open';
      model.refuse(reply);
      settle();
    },
    rest: model.rest,
  };
}
