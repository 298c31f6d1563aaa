import type { Socket } from 'node:net';
import { deferred } from '../program/deferred.ts';
import { EXIT, errorCode } from '../program/failure.ts';
import type { ByteStream } from '../stream/byte-stream.ts';
import { keepReadableAfterFailedWrite } from '../stream/failed-write.ts';
import type { Smtpd, SmtpdEnd } from './smtpd.ts';

/** An smtpd at the other end of a connection. */
export interface ConnectionOptions {
  /** TCP, a Unix socket, or TLS over one of them. */
  readonly socket: Socket;
  /** The two directions of `socket`, if they are in use already. */
  readonly stream: ByteStream;
  /** What a log calls it. */
  readonly name: string;
}

/**
 * Makes an smtpd of a connection that has been established. It ends with the connection. SIGKILL closes the connection;
 * any other signal half-closes it.
 */
export function smtpdOnConnection({ socket, stream, name }: ConnectionOptions): Smtpd {
  const { promise: ended, resolve } = deferred<SmtpdEnd>();
  let signalled: NodeJS.Signals | undefined;
  let writeFailure: Error | undefined;
  const settle = (error?: Error): void => {
    if (signalled !== undefined) resolve({ status: EXIT.systemCallFailed, signal: signalled });
    else if (error === undefined) resolve({ status: EXIT.success });
    else resolve({ status: EXIT.systemCallFailed, failure: `lost ${name}: ${errorCode(error)}` });
  };
  keepReadableAfterFailedWrite(socket, (error) => {
    writeFailure ??= error;
  });
  // Before the listeners of the Source: when they report the end, `ended` must have settled.
  socket.prependListener('error', settle);
  socket.prependListener('end', () => {
    settle(writeFailure);
    // Pending bytes are not delivered. The server might never take them.
    socket.destroy();
  });
  socket.prependListener('close', () => settle());
  return {
    ...stream,
    label: name,
    ended,
    kill: (signal) => {
      signalled ??= signal;
      if (signal === 'SIGKILL') socket.destroy();
      else socket.end();
    },
  };
}
