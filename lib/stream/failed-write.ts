import type { Socket } from 'node:net';

/**
 * Keeps a socket readable after a failed write: what the peer sent before it closed can still be read. By default Node
 * destroys the socket at an EPIPE, with everything that it has received and not read
 * (https://github.com/nodejs/node/issues/149).
 *
 * What is written from then on is lost, like what a peer has received and not read. The socket ends when it is read:
 * with the end or with an error.
 *
 * @param failed called with the error of each failed write.
 */
export function keepReadableAfterFailedWrite(socket: Socket, failed: (failure: Error) => void): void {
  type Done = (error?: Error | null) => void;
  const { _write: write, _writev: writev } = socket;
  const without =
    (done: Done): Done =>
    (error) => {
      if (error) failed(error);
      done();
    };
  socket._write = (chunk, encoding, done) => write.call(socket, chunk, encoding, without(done));
  if (writev !== undefined) socket._writev = (chunks, done) => writev.call(socket, chunks, without(done));
}
