import type { Prelude, PreludeStep } from './prelude.ts';

/**
 * Creates a prelude that answers nothing, for an smtpd whose introduction is not known: smtpd is needed at once, and what
 * the client sends meanwhile is kept for it. `refuse` gives the client its reply in place of a greeting, and ends.
 *
 * Memory: what the client sends before `takeRest`.
 */
export function createSilentPrelude(): Prelude {
  const received: Buffer[] = [];
  const steps: PreludeStep[] = [{ type: 'smtpd-needed', hello: undefined }];
  return {
    fromClient: (bytes) => void received.push(Buffer.from(bytes)),
    clientEnded() {},
    timedOut() {},
    next: () => steps.shift(),
    refuse: (reply) => void steps.push({ type: 'to-client', bytes: reply }, { type: 'end' }),
    takeRest: () => Buffer.concat(received),
    drop() {},
  };
}
