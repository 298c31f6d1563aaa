import type { TLSSocket } from 'node:tls';

/** Names and values of an answer, in its order; undefined for a name that stands without a value. */
export type Names = readonly (readonly [string, string | undefined])[];

/** The differences between UCSPI-TLS servers. */
export interface Traits {
  /** The numbers that the program finds its descriptors under, from 3 on; all three may be the same. */
  readonly numbers: { readonly control: number; readonly read: number; readonly write: number };
  /** What the program finds in its environment besides. */
  readonly environment: NodeJS.ProcessEnv;
  /** The answer to `Y` for a session. */
  describe(socket: TLSSocket): Names;
  /** Replaces the right bytes in one piece by another answer. */
  readonly answer?: (right: Buffer) => Answer;
  /** Whether the control socket is closed behind the answer. */
  readonly closesControl: boolean;
  /** Whether the program gets SIGTERM where it could have been left alone. */
  readonly terminates: boolean;
  /** Answer together with the client's first bytes, in one piece. */
  readonly isEager?: boolean;
  /** Read nothing from the connection before SIGUSR1, though the program has asked for TLS. */
  readonly waits?: boolean;
}

/** An answer that is not what it should be. */
export type Answer =
  /** These bytes, one write each, and then the session. */
  | { readonly next: 'session'; readonly pieces: readonly Buffer[] }
  /** These bytes, and then the control socket is closed. */
  | { readonly next: 'close'; readonly pieces: readonly Buffer[] }
  /** These bytes, and never another. */
  | { readonly next: 'silence'; readonly pieces: readonly Buffer[] }
  /** The server dies with these bytes on their way. */
  | { readonly next: 'die'; readonly pieces: readonly Buffer[] };

/** Writes an answer as the convention has it. */
export function writeAnswer(names: Names): Buffer {
  const strings = names.map(([name, value]) => (value === undefined ? name : `${name}=${value}`));
  return Buffer.from(strings.length === 0 ? '\0\0' : `${strings.join('\0')}\0\0`);
}
