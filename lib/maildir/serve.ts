import { constants, hostname } from 'node:os';
import { EXIT } from '../program/failure.ts';
import { usage } from '../program/options.ts';
import { createReporter } from '../program/reporter.ts';
import { passSignals } from '../program/signals.ts';
import type { Sink } from '../stream/byte-stream.ts';
import { openStandard } from '../stream/descriptor.ts';
import { hangUp } from '../stream/relay.ts';
import { after } from '../stream/time.ts';
import { createReception } from './protocol/receiver.ts';
import { formatTrace, plain } from './protocol/trace.ts';
import type { Envelope } from './protocol/transaction.ts';
import { receive } from './receive.ts';
import { beginDelivery, type Delivery } from './store/delivery.ts';
import { createMaildir } from './store/maildir.ts';

/** What the server is told on its command line. */
export interface ServeOptions {
  /** The name that messages begin with. */
  readonly program: string;
  /** Where the mail goes. */
  readonly maildir: string;
  /** The size of the largest message that is taken, in octets; 0 for any. DATABYTES stands above it. */
  readonly sizeLimit: number;
  /** How long nothing may happen, in milliseconds. */
  readonly silence: number;
}

/** How long the last words may take to leave this process, in milliseconds. */
const FAREWELL = 2000;

/** The exit status when the client was cut off, or cut us off, as qmail-smtpd has it. */
const CUT = 1;

/**
 * Receives mail from the client on descriptors 0 and 1 and stores it in a Maildir.
 *
 * @returns the exit status: 0, 1 when the connection did not end in good order, 128 and the number of a
 * signal when that was the reason.
 * @throws Failure (100) when DATABYTES is no number, (111) when there can be no Maildir or descriptors 0
 * and 1 lead to no client.
 */
export async function serve(options: ServeOptions, environment: NodeJS.ProcessEnv): Promise<number> {
  const report = createReporter(options.program, 1);
  const host = hostname();
  const sizeLimit = readDatabytes(environment) ?? options.sizeLimit;
  createMaildir(options.maildir);
  const client = openStandard();
  const receipt = receive({
    reception: createReception({ host: plain(host), sizeLimit }),
    client,
    deliver: (envelope) => deliver(envelope, options.maildir, host, environment),
    silence: options.silence,
    report,
  });
  let signalled: number | undefined;
  passSignals((signal) => {
    signalled ??= 128 + constants.signals[signal];
    receipt.terminate();
  });
  const cause = await receipt.ended;
  // Whoever still talks must not be met by a reset, which would take our last words with it.
  if (cause === 'cut' && signalled === undefined) await hangUp(client);
  else await sayFarewell(client.sink);
  return signalled ?? (cause === 'cut' ? CUT : EXIT.success);
}

/** qmail's variable: a limit to the size of a message, in octets; 0 or nothing for none. */
function readDatabytes({ DATABYTES }: NodeJS.ProcessEnv): number | undefined {
  if (DATABYTES === undefined) return undefined;
  if (!/^\d*$/.test(DATABYTES)) throw usage(`DATABYTES is no number: ${DATABYTES}`);
  return Math.min(Number(DATABYTES), Number.MAX_SAFE_INTEGER);
}

function deliver(
  envelope: Envelope,
  maildir: string,
  host: string,
  environment: NodeJS.ProcessEnv,
): Delivery {
  const delivery = beginDelivery(maildir, host);
  try {
    delivery.write(
      formatTrace(envelope, { host: plain(host), id: plain(delivery.id), date: new Date(), environment }),
    );
    return delivery;
  } catch (error) {
    delivery.discard();
    throw error;
  }
}

async function sayFarewell(sink: Sink): Promise<void> {
  const limit = after(FAREWELL);
  await Promise.race([new Promise<void>((resolve) => sink.end(resolve)), limit.passed]);
  limit.cancel();
}
