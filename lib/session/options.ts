import {
  numberOption,
  type OptionGroup,
  type OptionRow,
  type OptionValues,
  refuseBoth,
} from '../program/options.ts';
import type { DialogueOptions } from '../smtp/dialogue.ts';

/** The options of a session. */
export interface SessionTerms extends DialogueOptions {
  /** Start a new smtpd, with TLS described in its environment, when TLS has been started. */
  readonly fresh: boolean;
  /**
   * Idle timeout of the dialogue, in milliseconds. In the relay, how long the client may read nothing; of a second smtpd,
   * how long it may send nothing before its greeting.
   */
  readonly idleTimeout: number;
  /** How long the greeting is held back, in milliseconds; 0 for not at all. */
  readonly greetDelay: number;
  /** Idle timeout of the relay, in milliseconds; undefined for no limit but smtpd's own. */
  readonly relayIdleTimeout: number | undefined;
}

/** The timeouts of a session without a dialogue. */
export type SessionTimes = Pick<SessionTerms, 'idleTimeout' | 'relayIdleTimeout'>;

/** The terms of a session whose `tls` is undefined: it has no dialogue, so only the times have an effect. */
export function termsWithoutDialogue({ idleTimeout, relayIdleTimeout }: SessionTimes): SessionTerms {
  return {
    requireTls: false,
    plaintextAuth: true,
    errorLimit: 1,
    fresh: false,
    greetDelay: 0,
    idleTimeout,
    relayIdleTimeout,
  };
}

/** The options of a session without a dialogue, whose smtpd has timeouts of its own. */
export const timeOptions: OptionGroup<SessionTimes> = {
  rows: [
    {
      name: 'idle-timeout',
      short: 't',
      value: 'SECONDS',
      help: 'how long the client may read nothing (300)',
    },
    {
      name: 'relay-idle-timeout',
      short: 'T',
      value: 'SECONDS',
      help: 'how long no byte may pass in either direction (no limit)',
    },
  ],
  read: readTimes,
};

/** What a client may do. */
export const SESSION_RULES: readonly OptionRow[] = [
  { name: 'require-tls', short: 'r', help: 'refuse mail without TLS' },
  { name: 'plaintext-auth', short: 'a', help: 'allow AUTH without TLS' },
  {
    name: 'fresh',
    short: 'f',
    help: 'start a new smtpd, with TLS described in its environment, after the handshake',
  },
];

/** How long and how often. */
export const SESSION_LIMITS: readonly OptionRow[] = [
  { name: 'idle-timeout', short: 't', value: 'SECONDS', help: 'idle timeout before TLS (300)' },
  {
    name: 'relay-idle-timeout',
    short: 'T',
    value: 'SECONDS',
    help: 'idle timeout of the relay after that (no limit)',
  },
  {
    name: 'greet-delay',
    value: 'SECONDS',
    help: 'hold the greeting back, and refuse clients that send data before it (0)',
  },
  { name: 'error-limit', value: 'N', help: 'commands that may be refused before MAIL (100)' },
];

const SECONDS = { min: 1, max: 2_000_000 };

/** In seconds: clients wait five minutes for the greeting (RFC 5321 section 4.5.3.2.1). */
const MAX_GREET_DELAY = 300;

/** The options of a session, for all programs that run one. */
export const sessionOptions: OptionGroup<SessionTerms> = {
  rows: [...SESSION_RULES, ...SESSION_LIMITS],
  read: (values) => {
    refuseBoth(values, 'require-tls', 'plaintext-auth');
    return {
      requireTls: values['require-tls'] === true,
      plaintextAuth: values['plaintext-auth'] === true,
      errorLimit: numberOption(values, 'error-limit', { min: 1, max: 1_000_000, default: 100 }),
      fresh: values.fresh === true,
      greetDelay: numberOption(values, 'greet-delay', { min: 0, max: MAX_GREET_DELAY, default: 0 }) * 1000,
      ...readTimes(values),
    };
  },
};

function readTimes(values: OptionValues): SessionTimes {
  const relay = numberOption(values, 'relay-idle-timeout', { ...SECONDS, default: undefined });
  return {
    idleTimeout: numberOption(values, 'idle-timeout', { ...SECONDS, default: 300 }) * 1000,
    relayIdleTimeout: relay === undefined ? undefined : relay * 1000,
  };
}
