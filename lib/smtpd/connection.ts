import type { Socket } from 'node:net';
import { deferred } from '../program/deferred.ts';
import { explain } from '../program/explain.ts';
import { EXIT } from '../program/failure.ts';
import type { ByteStream } from '../stream/byte-stream.ts';
import { keepReadableAfterFailedWrite } from '../stream/failed-write.ts';
import type { Smtpd, SmtpdEnd } from './smtpd.ts';

/** A connection with an smtpd. */
export interface ConnectionOptions {
  /** TCP, a Unix socket, or TLS over one of them. It need not be connected yet. */
  readonly socket: Socket;
  /** The two directions of `socket`. */
  readonly stream: ByteStream;
  /** What a log calls the smtpd. */
  readonly name: string;
  /** Whether it is a Unix socket, or TLS over one. */
  readonly isUnix: boolean;
  /** What a failure is called at that moment: "lost" or "cannot reach". */
  failed(): string;
}

/**
 * Makes an smtpd of a connection. It ends with the connection. SIGKILL closes the connection; any other signal half-closes
 * it.
 */
export function smtpdOnConnection({ socket, stream, name, isUnix, failed }: ConnectionOptions): Smtpd {
  const { promise: ended, resolve } = deferred<SmtpdEnd>();
  let signalled: NodeJS.Signals | undefined;
  let writeFailure: Error | undefined;

  const settle = (failure?: string): void => {
    if (signalled !== undefined) resolve({ status: EXIT.systemCallFailed, signal: signalled });
    else if (failure !== undefined) resolve({ status: EXIT.systemCallFailed, failure });
    else resolve({ status: EXIT.success, description: 'it closed the connection' });
  };
  /** @param error the failure of the socket, if any. */
  const finish = (error: Error | undefined): void => {
    // On a Unix socket this means no more than that the server has closed it and has not read everything: a program on
    // pipes may do so too, after its last reply.
    if (error === undefined || (isUnix && socket.bytesRead > 0)) settle();
    else settle(`${failed()} ${name}: ${explain('connect', error)}`);
  };
  keepReadableAfterFailedWrite(socket, (error) => {
    writeFailure ??= error;
  });
  // Before the listeners of the Source: when they report the end, `ended` must have settled.
  socket.prependListener('error', finish);
  socket.prependListener('end', () => {
    finish(writeFailure);
    // As with a program that has exited, pending bytes are not delivered. The server might never take them.
    socket.destroy();
  });
  socket.prependListener('close', () => settle());
  return {
    ...stream,
    label: name,
    ended,
    kill: (signal) => {
      signalled ??= signal;
      if (signal === 'SIGKILL' || socket.connecting) socket.destroy();
      else socket.end();
    },
  };
}
