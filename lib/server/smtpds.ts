import { type Endpoints, withoutUcspiTcp } from '../net/endpoints.ts';
import { deferred } from '../program/deferred.ts';
import { errorCode } from '../program/failure.ts';
import type { Reporter } from '../program/reporter.ts';
import type { SessionTerms } from '../session/options.ts';
import type { Introduction } from '../smtp/prelude.ts';
import type { RoutingNotice } from '../smtp/routing.ts';
import { environmentForSmtpd, smtpdFor } from '../smtpd/environment.ts';
import { learnIntroduction } from '../smtpd/introduction.ts';
import { onDemand, type SmtpdSlot } from '../smtpd/on-demand.ts';
import type { StartSmtpd } from '../smtpd/program.ts';
import { createRelays } from '../smtpd/relay/relays.ts';
import type { Smtpd } from '../smtpd/smtpd.ts';
import type { TlsSettings } from '../tls/options.ts';
import type { Limiter } from './connection/limiter.ts';
import { createEnvelopes, type EnvelopesOptions } from './envelopes.ts';
import type { Log, LogFields } from './log.ts';
import type { Metrics } from './metrics/metrics.ts';
import type { SecretsSnapshot } from './secrets.ts';
import type { ServerSmtpdSettings } from './smtpd-options.ts';

/** Events of the smtpds of a connection. */
export interface SmtpdEvents {
  /** One was started, or could not be: then it has no `label`. */
  started(smtpd: Smtpd): void;
  /** Of a prelude too. */
  notice(notice: RoutingNotice): void;
  /** For lines about a server by URL. Clients can cause them. */
  readonly relay: Reporter;
  /** For lines about the envelope. Clients can cause them. */
  readonly envelope: Reporter;
}

/** The smtpds of a service. */
export interface Smtpds {
  /** Uses these for servers by URL, and for SRS, from the next session on. With either, it must be called before the first. */
  renew(secrets: SecretsSnapshot): void;
  /** Whether each is a program. A server costs next to nothing: by URL, it is connected to when a command needs it. */
  readonly arePrograms: boolean;
  /**
   * Returns the function that starts the smtpd of a connection.
   *
   * @param id identifies the connection.
   */
  startFor(ends: Endpoints, id: string, events: SmtpdEvents): StartSmtpd;
  /** With `--on-demand`, learns the introduction, now and every hour. Settles when it is known or has failed. */
  learn(): Promise<void>;
  /** Stops learning. Settles when no smtpd that was started for it is left. */
  close(): Promise<void>;
}

/** The settings of the smtpds of a service. */
export interface SmtpdsOptions extends ServerSmtpdSettings, EnvelopesOptions, Pick<TlsSettings, 'handshake'> {
  readonly terms: SessionTerms;
  /** Start them on demand. */
  readonly onDemand: boolean;
  /** How many may run at the same time, with `onDemand`; undefined for no limit but that of connections. */
  readonly maxSmtpds: number | undefined;
}

/** What smtpds need from their process. */
export interface SmtpdsParts {
  readonly environment: NodeJS.ProcessEnv;
  /** Bounds how many run at the same time, over all processes. */
  readonly smtpdLimiter: Limiter;
  readonly metrics: Metrics;
  readonly log: Log;
}

/** How often the introduction is learned again, in milliseconds; smtpd may have been replaced by another version. */
const LEARN_INTERVAL = 3_600_000;

/** How long after a failure it is tried again, in milliseconds. */
const RETRY_INTERVAL = 60_000;

/** The client for whom the introduction is learned. Exim refuses a PROXY header of version 1 with port 0. */
const LOOPBACK: Endpoints = { remote: { ip: '127.0.0.1', port: 1 }, local: { ip: '127.0.0.1', port: 25 } };

/** The slot of an smtpd when their number has no limit. */
const ADMITTED: SmtpdSlot = { admission: Promise.resolve('admitted'), release() {} };

/** Creates the smtpds of a service. With `onDemand` and before the first `learn`, they are started at once. */
export function createSmtpds(options: SmtpdsOptions, parts: SmtpdsParts): Smtpds {
  const { smtpdLimiter, metrics, log } = parts;
  const { idleTimeout, errorLimit } = options.terms;
  const environment = withoutUcspiTcp(environmentForSmtpd(parts.environment));
  let introduction: Introduction | undefined;
  let timer: NodeJS.Timeout | undefined;
  let learning: Promise<void> | undefined;
  /** Gives up what is learned at the moment. */
  let abortLearning = (): void => {};
  /** `learn` was called while it was learning: smtpd may have been replaced since that began. */
  let isOutdated = false;
  let isClosed = false;

  const configured = createConfigured(options, environment, metrics);
  const envelopes = createEnvelopes(options);

  /** Starts what the command line names, and counts it. */
  function realFor(ends: Endpoints, id: string, events: SmtpdEvents): StartSmtpd {
    const start = envelopes.around(configured.startFor(ends, events), ends.remote.ip, id, events.envelope);
    return (tlsEnvironment) => {
      const smtpd = start(tlsEnvironment);
      events.started(smtpd);
      if (smtpd.label === undefined) return smtpd;
      metrics.smtpdStarted();
      void smtpd.ended.then(metrics.smtpdStopped);
      return smtpd;
    };
  }

  async function learnOnce(): Promise<void> {
    clearTimeout(timer);
    isOutdated = false;
    const { promise: abort, resolve } = deferred();
    abortLearning = resolve;
    try {
      let label: string | undefined;
      const named = log.with(() => ({ smtpd: label }));
      const events: SmtpdEvents = {
        started: (started) => {
          label = started.label;
        },
        notice() {},
        relay: named.reporter('relay'),
        envelope: named.reporter('envelope'),
      };
      const smtpd = realFor(LOOPBACK, 'introduction', events)({});
      introduction = await learnIntroduction(smtpd, idleTimeout, abort);
      log.info('introduction', { text: introduction.greeting.texts[0] });
    } catch (error) {
      introduction = undefined;
      const text = `unable to learn how smtpd introduces itself, starting it for each client: ${errorCode(error)}`;
      if (!isClosed) log.warning('introduction', { text });
    }
    if (isClosed) return;
    if (isOutdated) return learnOnce();
    learning = undefined;
    timer = setTimeout(learn, introduction === undefined ? RETRY_INTERVAL : LEARN_INTERVAL);
    // It must not keep the process alive.
    timer.unref();
  }

  function learn(): Promise<void> {
    if (!options.onDemand || isClosed) return Promise.resolve();
    isOutdated = true;
    learning ??= learnOnce();
    return learning;
  }

  return {
    renew: (secrets) => {
      configured.renew(secrets);
      envelopes.renew(secrets);
    },
    arePrograms: configured.arePrograms,
    startFor: (ends, id, events) => {
      const start = realFor(ends, id, events);
      if (!options.onDemand) return start;
      return onDemand({
        start,
        introduction: () => introduction,
        slot: () => (options.maxSmtpds === undefined ? ADMITTED : smtpdLimiter.slot(undefined)),
        idleTimeout,
        errorLimit,
        notice: events.notice,
      });
    },
    learn,
    close: () => {
      isClosed = true;
      clearTimeout(timer);
      abortLearning();
      return learning ?? Promise.resolve();
    },
  };
}

/**
 * The fields of the log that name an smtpd. `smtpd` is the process id of a program, and the name of any other; `pid` is the
 * program behind such a name.
 */
export function smtpdFields(smtpd: Smtpd | undefined): LogFields {
  const { label = 'none', pid } = smtpd ?? {};
  return { smtpd: label, pid: label === String(pid) ? undefined : pid };
}

/** Creates what starts the smtpds of the command line: a program, a server of `--to`, or servers by URL or by route. */
function createConfigured(
  { smtpd, localHost: localName, terms, handshake }: SmtpdsOptions,
  environment: NodeJS.ProcessEnv,
  metrics: Metrics,
): Pick<Smtpds, 'renew' | 'arePrograms'> & { startFor(ends: Endpoints, events: SmtpdEvents): StartSmtpd } {
  if (!('reach' in smtpd)) {
    const startFor = (ends: Endpoints): StartSmtpd => smtpdFor(smtpd, ends, environment, localName);
    return { renew() {}, arePrograms: !('address' in smtpd), startFor };
  }
  const { idleTimeout, errorLimit } = terms;
  const handshakeTimeout = handshake.timeout;
  const relays = createRelays(smtpd, {
    localName,
    idleTimeout,
    errorLimit,
    handshakeTimeout,
    environment,
    expected: metrics.relayExpected,
  });
  return {
    renew: (secrets) => {
      if (secrets.relay !== undefined) relays.renew(secrets.relay);
    },
    arePrograms: false,
    startFor: (ends, { notice, relay }) =>
      relays.startFor(ends, { notice, report: relay, concluded: metrics.relayAttempted }),
  };
}
