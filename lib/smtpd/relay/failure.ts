import type { RemoteOutcome } from '../../smtp/remote-opening.ts';
import type { Reply } from '../../smtp/reply-reader.ts';

/** What can come of an attempt to reach a server, for counters. */
export const REACH_RESULTS = [
  'reached',
  /** MX records lead to no server. */
  'no-mx',
  'no-dns',
  /** The host has no address, or nothing answers there. */
  'no-connection',
  /** ssh, or another program, has led to no server. */
  'program-failed',
  /** STARTTLS is needed and not offered, or refused. */
  'no-tls',
  'handshake-failed',
  'not-verified',
  /** There are credentials, and it offers no AUTH that can be used. */
  'no-auth',
  'auth-refused',
  /** It refused service. */
  'refused',
  /** It was lost, or sent an invalid reply, or none in time. */
  'broken',
  /** The client has left, or the program shuts down. */
  'aborted',
] as const;

/** See `REACH_RESULTS`. */
export type ReachResult = (typeof REACH_RESULTS)[number];

/** Why a server cannot be had on one way. */
export interface RelayFailure {
  readonly result: Exclude<ReachResult, 'reached' | 'aborted'>;
  /**
   * For what is tried next: a handshake has failed, or could not begin; or there was no verified TLS; or the host is this
   * one; or else.
   */
  readonly kind: 'handshake-failed' | 'no-tls' | 'loop' | 'other';
  /** The code for the client: 450 or 451 if it may pass, that of the server if it has refused for good. */
  readonly code: number;
  /** The enhanced status code (RFC 3463), without the class. */
  readonly detail: string;
  /** For the client and for the log. */
  readonly why: string;
  /** For the log only. */
  readonly more?: string;
}

/** It may pass. */
const TEMPORARY = 451;

function mayPass(
  result: RelayFailure['result'],
  kind: RelayFailure['kind'],
  detail: string,
  why: string,
): RelayFailure {
  return { result, kind, code: TEMPORARY, detail, why };
}

/** No connection. */
export function noConnection(code: string): RelayFailure {
  // RFC 3463: 4.4 unable to route, for a host that has no address; 4.1 no answer from host.
  const detail = code === 'ENOTFOUND' ? '4.4' : '4.1';
  return mayPass('no-connection', 'no-tls', detail, `cannot connect: ${code}`);
}

/** MX records lead to no server. It may pass: Postfix does the same for a backup MX without a primary. */
export function noMx(why: string, kind: 'loop' | 'other' = 'other'): RelayFailure {
  return { ...mayPass('no-mx', kind, '4.4', why), code: 450 };
}

/** DNS has not answered. 4.3 is a directory server failure. */
export function noDns(why: string): RelayFailure {
  return mayPass('no-dns', 'other', '4.3', why);
}

/** ssh, or another program, has not led to a server. @param more why, for the log only. */
export function programFailed(why: string, more?: string): RelayFailure {
  return { ...mayPass('program-failed', 'other', '4.1', why), ...(more !== undefined && { more }) };
}

/** A TLS handshake that did not succeed. 7.5 is a cryptographic failure. */
export function handshakeFailed(why: string): RelayFailure {
  return mayPass('handshake-failed', 'handshake-failed', '7.5', `TLS handshake failed: ${why}`);
}

/** TLS with a server that is not verified, although it has to be. */
export function notVerified(why: string): RelayFailure {
  return mayPass('not-verified', 'no-tls', '7.5', `the server is not verified: ${why}`);
}

/** A server that has sent no reply in time. */
export const NO_REPLY_IN_TIME = 'no reply in time';

/**
 * An opening that has not ended with `ready`.
 *
 * @param inTls whether TLS has started, and the server is verified if it must be.
 * @param isBelieved whether a refusal for good is passed on as such. An attacker on the path must not be able to have mail
 * returned that is to be sent to a verified server only.
 */
export function openingFailed(
  outcome: Exclude<RemoteOutcome, { readonly type: 'ready' }>,
  { inTls, isBelieved }: { readonly inTls: boolean; readonly isBelieved: boolean },
): RelayFailure {
  const kind = inTls ? 'other' : 'no-tls';
  switch (outcome.type) {
    case 'no-tls': {
      // RFC 3463 has nothing closer than 7.4, security features not supported.
      const why =
        outcome.reply === undefined
          ? 'STARTTLS is not offered'
          : `STARTTLS refused: ${textOf(outcome.reply)}`;
      // After 421 there is no session in cleartext on this connection, as after a failed handshake.
      const isClosed = outcome.reply?.code === 421;
      return mayPass('no-tls', isClosed ? 'handshake-failed' : kind, '7.4', why);
    }
    case 'no-auth':
      return mayPass('no-auth', kind, '7.4', 'it offers no AUTH that can be used');
    case 'auth-refused':
      // The client did not send these credentials, and can do nothing about them.
      return {
        ...mayPass('auth-refused', kind, '7.8', 'it refused our credentials'),
        more: textOf(outcome.reply),
      };
    case 'refused':
      return { result: 'refused', kind, ...refusal(outcome.reply, isBelieved) };
    case 'broken':
      return mayPass('broken', kind, '4.2', outcome.why ?? 'it closed the connection');
  }
}

/** 5xx is passed on; anything else may pass. */
function refusal(reply: Reply, isBelieved: boolean): Pick<RelayFailure, 'code' | 'detail' | 'why'> {
  const why = `it refused service: ${textOf(reply)}`;
  const code = isBelieved && reply.code >= 500 ? reply.code : TEMPORARY;
  const [, detail = '0.0'] = /^[45]\.(\d{1,3}\.\d{1,3})(?: |$)/.exec(reply.texts[0] ?? '') ?? [];
  return { code, detail, why };
}

/** The longest text of a reply in the log, in characters. */
const LOG_LIMIT = 1000;

function textOf({ code, texts }: Reply): string {
  return `${code} ${texts.join(' ')}`.trimEnd().slice(0, LOG_LIMIT);
}

/** The warning about a failure. @param where the server, as messages name it. */
export function failureWarning(where: string, { why, more }: RelayFailure): string {
  return `unable to relay to ${where}: ${more === undefined ? why : `${why}: ${more}`}`;
}

/** The longest reply, in octets: what remains of 512 (RFC 5321 section 4.5.3.1.5) with room for the codes. */
const TEXT_LIMIT = 480;

/** The reply for the client, in printable ASCII. */
export function formatFailure({ code, detail, why }: RelayFailure): Buffer {
  const text = why.replace(/[^ -~]/g, '?').slice(0, TEXT_LIMIT);
  return Buffer.from(`${code} ${code < 500 ? 4 : 5}.${detail} ${text}\r\n`, 'latin1');
}
