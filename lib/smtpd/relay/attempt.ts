import { createHmac } from 'node:crypto';
import type { LookupAddress } from 'node:dns';
import { connect, type LookupFunction, type Socket } from 'node:net';
import { KEEPALIVE } from '../../net/endpoints.ts';
import { formatServerAddress, type ServerAddress } from '../../net/host-port.ts';
import { upon } from '../../program/deferred.ts';
import { errorCode } from '../../program/failure.ts';
import type { Reporter } from '../../program/reporter.ts';
import type { Credentials } from '../../smtp/auth.ts';
import { createRemoteOpening, type RemoteOpening, type RemoteOutcome } from '../../smtp/remote-opening.ts';
import type { Reply } from '../../smtp/reply-reader.ts';
import { type ByteStream, byteStreamOf, IGNORE } from '../../stream/byte-stream.ts';
import { after, watchIdle } from '../../stream/time.ts';
import type { TlsClient } from '../../tls/client.ts';
import { smtpdOnConnection } from '../connection.ts';
import type { Smtpd } from '../smtpd.ts';
import {
  handshakeFailed,
  NO_REPLY_IN_TIME,
  noConnection,
  notVerified,
  openingFailed,
  type ReachResult,
  type RelayFailure,
} from './failure.ts';
import type { SshOptions } from './ssh-command.ts';
import type { RelayTarget, Way } from './url.ts';

/** How servers are reached. */
export interface ReachOptions {
  readonly tls: TlsClient;
  /** How long a connection may take, all addresses of the host together, in milliseconds. */
  readonly connectTimeout: number;
  /** How long a server may take for a reply of its opening, in milliseconds. */
  readonly replyTimeout: number;
  /** How long all of it may take, in milliseconds; undefined for no limit but the others. */
  readonly reachTimeout?: number;
  /** For targets by ssh. */
  readonly ssh: SshOptions;
  /** The DNS server for targets of a backup MX, as "ADDRESS:PORT"; undefined for those of the system. */
  readonly resolver: string | undefined;
  readonly report: Reporter;
  /** Called with the URL and what has come of the attempt. */
  readonly concluded?: (url: string, result: ReachResult) => void;
}

/** One session with a server. */
export interface ReachRequest extends ReachOptions {
  readonly target: RelayTarget;
  /** The domain of the recipient, as sent, for a target of a backup MX. It may be an address literal. */
  readonly recipientDomain?: string | undefined;
  /** The addresses of the target's host; undefined to look them up as the system does. */
  readonly addresses?: readonly LookupAddress[] | undefined;
  /** For a server that is verified; undefined for no AUTH. */
  readonly credentials: Credentials | undefined;
  /** The name with which the client is introduced. */
  readonly name: string;
  /** What is sent before all else: a PROXY header. */
  readonly header: Buffer | undefined;
  /** Settles to give up: with the reason as a string, or for a shutdown with another value. */
  readonly abort: Promise<unknown>;
}

/** A server that awaits the client's next command. Its source is paused. */
export interface Reached {
  readonly smtpd: Smtpd;
  /** Its last reply to EHLO, HELO or LHLO. */
  readonly hello: Reply;
  /** What it has sent after that up to now, usually nothing: Node resumes the output of a program that exits. */
  rest(): Buffer;
}

/** The result of one attempt, or of all. */
export type Attempt =
  | { readonly type: 'reached'; readonly reached: Reached }
  | { readonly type: 'failed'; readonly failure: RelayFailure };

/** How long one address may take before the next one is tried too, in milliseconds. Node's default is 250. */
const NEXT_ADDRESS = 2000;

/** Tries to reach a server on one way. No connection is left when that fails. */
export async function attempt(way: Way, request: ReachRequest): Promise<Attempt> {
  const connected = await connectTo(way.address, request);
  if (!('socket' in connected)) return failed(noConnection(connected.code));
  const { socket } = connected;
  const cancel = upon(request.abort, () => socket.destroy());
  if (request.header !== undefined) socket.write(request.header);
  const result = await open(way, request, socket);
  // The end of the session must not cut off what was written to a server that was reached.
  cancel();
  if (result.type === 'failed') socket.destroy();
  return result;
}

/** Connects to the addresses of a host in turn, as Node does it (RFC 8305), with one limit for all of them. */
function connectTo(
  address: ServerAddress,
  { connectTimeout, addresses, abort }: ReachRequest,
): Promise<{ readonly socket: Socket } | { readonly code: string }> {
  return new Promise((resolve) => {
    const more = { autoSelectFamily: true, autoSelectFamilyAttemptTimeout: NEXT_ADDRESS };
    const lookup = addresses === undefined ? {} : { lookup: knownAddresses(addresses) };
    const socket = connect({ ...address, ...more, ...lookup, noDelay: true, ...KEEPALIVE });
    const limit = after(connectTimeout);
    const fail = (code: string): void => {
      limit.cancel();
      cancel();
      socket.destroy();
      resolve({ code });
    };
    const cancel = upon(abort, (why) => fail(reasonOf(why)));
    void limit.passed.then(() => fail('timed out'));
    // Also later, while TLS has the connection.
    socket.on('error', (error) => fail(errorCode(error)));
    socket.once('connect', () => {
      limit.cancel();
      cancel();
      resolve({ socket });
    });
  });
}

/** Gives `connect` the addresses of a host. With autoSelectFamily it asks for all of them. */
function knownAddresses(addresses: readonly LookupAddress[]): LookupFunction {
  return (_host, _options, callback) => callback(null, [...addresses]);
}

async function open(way: Way, request: ReachRequest, connection: Socket): Promise<Attempt> {
  const name = formatServerAddress(way.address);
  const opening = createRemoteOpening({
    verb: request.target.protocol === 'lmtp' ? 'LHLO' : 'EHLO',
    name: request.name,
    starttls: way.tls === 'implicit' ? 'never' : way.tls,
    credentials: request.credentials,
    hmacMd5: (key, message) => createHmac('md5', key).update(message).digest('hex'),
  });
  let socket = connection;
  let stream = byteStreamOf(connection);
  let inTls = false;
  /** Why the credentials cannot be sent. */
  let fault: string | undefined = 'no TLS';

  /** @returns the failure, if any. */
  async function startTls(): Promise<RelayFailure | undefined> {
    stream.source.listen(IGNORE);
    stream.sink.listen(IGNORE);
    try {
      const { host } = request.target;
      const exceeded = (why: string): void => request.report.warning(`${name}: ${why}, closing`);
      const session = await request.tls.shakeHands(connection, host, exceeded);
      socket = session.socket;
      fault = session.fault;
      request.report.info(
        `TLS with ${name}: ${session.description}, ${fault === undefined ? 'verified' : `not verified: ${fault}`}`,
      );
    } catch (error) {
      return handshakeFailed(errorCode(error));
    }
    if (way.mustVerify && fault !== undefined) return notVerified(fault);
    stream = byteStreamOf(socket, connection);
    inTls = true;
    opening.tlsStarted(fault === undefined);
    return undefined;
  }

  let step: RemoteOutcome | 'start-tls' = 'start-tls';
  if (way.tls !== 'implicit') step = await advance(opening, stream, request);
  while (step === 'start-tls') {
    const failure = await startTls();
    if (failure !== undefined) return failed(failure);
    step = await advance(opening, stream, request);
  }
  if (step.type !== 'ready')
    return failed(openingFailed(step, { inTls, isBelieved: inTls || !way.mustVerify }));
  if (request.credentials !== undefined && !step.isAuthenticated) {
    request.report.warning(`no credentials are sent to ${name}: it is not verified: ${fault ?? 'no TLS'}`);
  }
  const smtpd = smtpdOnConnection({
    socket,
    stream,
    name,
    isUnix: 'path' in way.address,
    failed: () => 'lost',
  });
  return { type: 'reached', reached: { smtpd, hello: step.hello, rest: opening.rest } };
}

function failed(failure: RelayFailure): Attempt {
  return { type: 'failed', failure };
}

/**
 * Carries out the steps of an opening up to its outcome or to TLS. The source is paused then, and a handshake that is
 * started at once gets all that arrives.
 */
export function advance(
  opening: RemoteOpening,
  { source, sink }: ByteStream,
  { replyTimeout, abort }: Pick<ReachRequest, 'replyTimeout' | 'abort'>,
): Promise<RemoteOutcome | 'start-tls'> {
  let isSettled = false;
  let failure: Error | undefined;
  return new Promise((resolve) => {
    const settle = (step: RemoteOutcome | 'start-tls'): void => {
      if (isSettled) return;
      isSettled = true;
      watch.stop();
      source.pause();
      resolve(step);
    };
    const run = (): void => {
      for (let step = opening.next(); step !== undefined && !isSettled; step = opening.next()) {
        if (step.type === 'outcome') return settle(withReason(step.outcome, failure));
        if (step.type === 'to-server') {
          // Each reply has the whole time, however slowly it arrives.
          watch.active();
          sink.write(step.bytes);
        } else return settle('start-tls');
      }
    };
    const watch = watchIdle(replyTimeout, () => settle({ type: 'broken', why: NO_REPLY_IN_TIME }));
    void abort.then((why) => settle({ type: 'broken', why: reasonOf(why) }));
    source.listen({
      bytes: (bytes) => {
        opening.fromServer(bytes);
        run();
      },
      ended: (error) => {
        failure = error;
        opening.serverEnded();
        run();
      },
    });
    run();
    source.read();
  });
}

function reasonOf(abortedWith: unknown): string {
  return typeof abortedWith === 'string' ? abortedWith : 'shutting down';
}

/** A connection may have failed rather than ended: a TLS server that refuses our certificate sends an alert. */
function withReason(outcome: RemoteOutcome, failure: Error | undefined): RemoteOutcome {
  if (outcome.type !== 'broken' || outcome.why !== undefined || failure === undefined) return outcome;
  return { type: 'broken', why: `the connection was lost: ${errorCode(failure)}` };
}
