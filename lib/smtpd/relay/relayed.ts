import { deferred } from '../../program/deferred.ts';
import { EXIT } from '../../program/failure.ts';
import { createPrelude, type HelloReplies, type PreludeNotice } from '../../smtp/prelude.ts';
import { extensionKeyword } from '../../smtp/reply.ts';
import type { Reply } from '../../smtp/reply-reader.ts';
import { createPreludeFront } from '../prelude-front.ts';
import { endSmtpd, type Smtpd, type SmtpdEnd } from '../smtpd.ts';
import type { Reached, ReachRequest } from './attempt.ts';
import { formatFailure } from './failure.ts';
import { reach } from './reach.ts';

/** The settings of a relay. */
export interface RelayedOptions extends Omit<ReachRequest, 'name' | 'abort'> {
  /** The name of this host: in the greeting, and in place of a client's that has given none. */
  readonly localName: string;
  /** How long the client may send no command before the server is there, in milliseconds. */
  readonly idleTimeout: number;
  /** See `PreludeOptions`. */
  readonly errorLimit: number;
  /** Called for each notice of the prelude. */
  notice(notice: PreludeNotice): void;
}

/**
 * An smtpd that is a server of others, named by a URL.
 *
 * The greeting is ours. With the first command that needs it, EHLO in most sessions, the server is reached and the client
 * introduced to it by the client's own name. EHLO is answered with what the server offers, less STARTTLS and AUTH, which
 * are this relay's business. From the next command that needs it on, usually MAIL, bytes pass unchanged.
 *
 * A server that cannot be had is the reply to that command and to all that need it in this session; the client may still
 * send QUIT. Then the status is 111.
 */
export function startRelayed(options: RelayedOptions): Smtpd {
  const { target, localName } = options;
  const { promise: ended, resolve: settle } = deferred<SmtpdEnd>();
  const { promise: abort, resolve: startAbort } = deferred();
  let state: 'answering' | 'reaching' | 'connected' | 'ended' = 'answering';
  let reached: Reached | undefined;
  /** Settles when it is reached, or nothing is left of the attempt. */
  let reaching: Promise<void> | undefined;
  /** The reply in place of the server. */
  let refusal: Buffer | undefined;
  const prelude = createPrelude({
    introduction: {
      greeting: { code: 220, texts: [`${localName} ${target.protocol === 'lmtp' ? 'LMTP' : 'ESMTP'}`] },
    },
    hello: undefined,
    errorLimit: options.errorLimit,
    refusesAuth: true,
    introduced() {},
  });
  const front = createPreludeFront(prelude, options.idleTimeout, {
    needed: (hello) => {
      if (state === 'ended') return;
      if (refusal !== undefined) return refuse(refusal);
      if (reached === undefined) reaching = start(nameIn(hello) ?? localName);
      else connect(reached);
    },
    notice: options.notice,
    ended: cancel,
    closed: cancel,
  });

  async function start(name: string): Promise<void> {
    state = 'reaching';
    const result = await reach({ ...options, name, abort });
    if (state !== 'reaching') {
      if (result.type === 'failed') return;
      result.reached.smtpd.kill('SIGKILL');
      return void (await result.reached.smtpd.ended);
    }
    state = 'answering';
    if (result.type === 'failed') {
      refusal = formatFailure(result.failure);
      return refuse(refusal);
    }
    reached = result.reached;
    prelude.introduce(hellosOf(target.protocol, reached.hello));
    front.resume();
  }

  function refuse(reply: Buffer): void {
    // In a call of the front it is not ready for this.
    queueMicrotask(() => {
      if (state === 'ended') return;
      prelude.refuse(reply);
      front.resume();
    });
  }

  function connect({ smtpd, rest }: Reached): void {
    state = 'connected';
    front.connect(smtpd, rest());
    void smtpd.ended.then(settle);
  }

  /**
   * The session has ended before the server took over. Nothing is left of that when this settles.
   *
   * @param signal what has ended it, if that was a signal.
   */
  async function finish(signal?: NodeJS.Signals): Promise<void> {
    state = 'ended';
    if (reached === undefined) {
      startAbort();
      await reaching;
    } else {
      reached.smtpd.sink.write(Buffer.from('QUIT\r\n'));
      const gone = endSmtpd(reached.smtpd);
      if (signal !== undefined) reached.smtpd.kill(signal);
      await gone;
    }
    if (signal !== undefined) settle({ status: EXIT.systemCallFailed, signal });
    else settle({ status: refusal === undefined ? EXIT.success : EXIT.systemCallFailed });
    front.end();
  }

  /** Nothing reads from here any more. */
  function cancel(): void {
    if (state !== 'connected' && state !== 'ended') void finish();
  }

  return {
    ...front.stream,
    ...{ label: target.url, ended },
    kill: (signal) => {
      if (state === 'connected' || state === 'ended') reached?.smtpd.kill(signal);
      else void finish(signal);
    },
  };
}

/** The name in "EHLO name"; undefined if there is none. */
export function nameIn(hello: string | undefined): string | undefined {
  return /^\s*\S+\s+(\S.*?)\s*$/s.exec(hello ?? '')?.[1];
}

/** What the client's commands are answered with. */
function hellosOf(protocol: 'smtp' | 'lmtp', { code, texts }: Reply): HelloReplies {
  const [first = '', ...extensions] = texts;
  const offered = extensions.filter((text) => !HIDDEN.has(extensionKeyword(text)));
  const full = { code, texts: [first, ...offered] };
  if (protocol === 'lmtp') return { lhlo: full };
  return { ehlo: full, helo: { code, texts: [first.split(' ')[0] ?? ''] } };
}

const HIDDEN: ReadonlySet<string> = new Set(['STARTTLS', 'AUTH']);
