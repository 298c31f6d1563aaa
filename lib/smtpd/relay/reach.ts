import { formatServerAddress } from '../../net/host-port.ts';
import { after } from '../../stream/time.ts';
import { type Attempt, attempt, type ReachRequest } from './attempt.ts';
import { reachBackup } from './backup.ts';
import { failureWarning, NO_REPLY_IN_TIME, type ReachResult, type RelayFailure } from './failure.ts';
import { attemptBySsh } from './ssh.ts';
import type { Way } from './url.ts';

/**
 * Reaches a server: tries its ways in turn, each on a connection of its own, as far as its URL promises. Each failure is
 * logged. The result of the last one is the result, with the reasons of all.
 *
 * Time: for each way the connect timeout, the handshake timeout, and the reply timeout for each of a few replies. For a
 * backup MX, see `reachBackup`. With a `reachTimeout`, at most that.
 */
export async function reach(request: ReachRequest): Promise<Attempt> {
  const { report, abort, reachTimeout } = request;
  let isAborted = false;
  void abort.then(() => {
    isAborted = true;
  });
  const limit = reachTimeout === undefined ? undefined : after(reachTimeout);
  const timedOut = limit?.passed.then(() => NO_REPLY_IN_TIME);
  const result = await tryWays({
    ...request,
    abort: timedOut === undefined ? abort : Promise.race([abort, timedOut]),
    report: {
      ...report,
      warning: (text) => {
        // Giving up is not a fault of the server.
        if (!isAborted) report.warning(text);
      },
    },
  });
  limit?.cancel();
  request.concluded?.(request.target.url, isAborted ? 'aborted' : resultOf(result));
  return result;
}

function resultOf(attempt: Attempt): ReachResult {
  return attempt.type === 'reached' ? 'reached' : attempt.failure.result;
}

async function tryWays(request: ReachRequest): Promise<Attempt> {
  const reasons: string[] = [];
  let last: RelayFailure | undefined;
  let isGivenUp = false;
  void request.abort.then(() => {
    isGivenUp = true;
  });
  for (const way of request.target.ways) {
    if ('ssh' in way) {
      const result = await attemptBySsh(way.ssh, request);
      if (result.type === 'reached') return result;
      request.report.warning(failureWarning(request.target.url, result.failure));
      // The client need not know the user and the command.
      const why = `${way.ssh.host}: ${result.failure.why}`;
      return { type: 'failed', failure: { ...result.failure, why } };
    }
    if ('backup' in way) return reachBackup(way, request, tryWays);
    const address = formatServerAddress(way.address);
    if (last !== undefined) {
      if (isGivenUp || !isNext(way, last)) break;
      request.report.warning(`trying ${address} ${TRYING[way.tls]}`);
    }
    const result = await attempt(way, request);
    if (result.type === 'reached') return result;
    last = result.failure;
    request.report.warning(failureWarning(address, last));
    reasons.push(`${address}: ${last.why}`);
  }
  if (last === undefined) throw new Error(`no way to ${request.target.url}`);
  return { type: 'failed', failure: { ...last, why: reasons.join('; ') } };
}

const TRYING = {
  never: 'in cleartext',
  'if-offered': 'with STARTTLS if offered',
  required: 'with STARTTLS',
  implicit: 'with TLS from the first byte',
} as const;

/** Whether a way is to be tried after a failure of the one before. A failed handshake is one way to have no TLS. */
function isNext({ after }: Way, { kind }: RelayFailure): boolean {
  return after !== undefined && (after === kind || (after === 'no-tls' && kind === 'handshake-failed'));
}
