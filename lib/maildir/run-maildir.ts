import { constants, hostname } from 'node:os';
import { EXIT } from '../program/failure.ts';
import { usage } from '../program/options.ts';
import { createReporter } from '../program/reporter.ts';
import { passSignals } from '../program/signals.ts';
import { sanitize } from '../smtp/received.ts';
import type { Sink } from '../stream/byte-stream.ts';
import { openStandard } from '../stream/descriptor.ts';
import { hangUp } from '../stream/hang-up.ts';
import { within } from '../stream/time.ts';
import { createReceiver } from './protocol/receiver.ts';
import { formatTrace } from './protocol/trace.ts';
import type { Envelope } from './protocol/transaction.ts';
import { receive } from './receive.ts';
import { type Delivery, startDelivery } from './store/delivery.ts';
import { createMaildir } from './store/maildir.ts';

/** The command line of smtpd-maildir. */
export interface MaildirOptions {
  /** The name at the start of each message on stderr. */
  readonly program: string;
  /** The path of the Maildir. */
  readonly maildir: string;
  /** The maximum size of a message in octets; 0 for no limit. DATABYTES overrides it. */
  readonly sizeLimit: number;
  /** The idle timeout, in milliseconds. */
  readonly idleTimeout: number;
}

/** How long the last replies may take to leave this process, in milliseconds. */
const FLUSH_TIMEOUT = 2000;

/** The exit status when the connection was aborted, by either side, as in qmail-smtpd. */
const ABORTED = 1;

/**
 * Receives mail from the client on descriptors 0 and 1 and stores it in a Maildir.
 *
 * @returns the exit status: 0; 1 when the connection was aborted; 128 and the number of the signal that ended
 * it.
 * @throws Failure (100) when DATABYTES is not a number; (111) when the Maildir cannot be created or
 * descriptors 0 and 1 are not sockets or pipes.
 */
export async function runMaildir(options: MaildirOptions, environment: NodeJS.ProcessEnv): Promise<number> {
  const report = createReporter(options.program, 1);
  const host = hostname();
  const sizeLimit = readDatabytes(environment) ?? options.sizeLimit;
  createMaildir(options.maildir);
  const client = openStandard();
  const running = receive({
    receiver: createReceiver({ host: sanitize(host), sizeLimit }),
    client,
    startDelivery: (envelope) => startTracedDelivery(envelope, options.maildir, host, environment),
    idleTimeout: options.idleTimeout,
    report,
  });
  let signalStatus: number | undefined;
  passSignals((signal) => {
    signalStatus ??= 128 + constants.signals[signal];
    running.stop();
  });
  const reason = await running.closed;
  // To close a socket with unread input resets the connection, and the client may lose the closing reply.
  if (reason === 'aborted' && signalStatus === undefined) await hangUp(client);
  else await flush(client.sink);
  return signalStatus ?? (reason === 'aborted' ? ABORTED : EXIT.success);
}

/** The maximum size of a message, from qmail's variable, in octets; 0 or an empty value for no limit. */
function readDatabytes({ DATABYTES }: NodeJS.ProcessEnv): number | undefined {
  if (DATABYTES === undefined) return undefined;
  if (!/^\d*$/.test(DATABYTES)) throw usage(`DATABYTES is not a number: ${DATABYTES}`);
  return Math.min(Number(DATABYTES), Number.MAX_SAFE_INTEGER);
}

/** Starts a delivery and writes the trace header fields. */
function startTracedDelivery(
  envelope: Envelope,
  maildir: string,
  host: string,
  environment: NodeJS.ProcessEnv,
): Delivery {
  const delivery = startDelivery(maildir, host);
  try {
    const context = { host: sanitize(host), id: sanitize(delivery.id), date: new Date(), environment };
    delivery.write(formatTrace(envelope, context));
    return delivery;
  } catch (error) {
    delivery.discard();
    throw error;
  }
}

/** Writes out what is pending and half-closes. */
async function flush(sink: Sink): Promise<void> {
  await within(FLUSH_TIMEOUT, new Promise<void>((resolve) => sink.end(resolve)));
}
