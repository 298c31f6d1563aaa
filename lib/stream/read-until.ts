import type { Duplex } from 'node:stream';

/**
 * Reads the beginning of a stream, until it can be parsed. What follows is put back, and the stream is paused.
 *
 * It has no timeout. A caller that gives up closes the stream, which ends the wait.
 *
 * @param what names the beginning in the error message, such as "the ClientHello".
 * @param parse is called with all bytes so far and returns undefined if it needs more. To bound memory, it has to
 * return or throw something else at some length. `rest` is what follows, and may be everything.
 * @returns what `parse` has returned.
 * @throws what `parse` throws; the error of the stream; an Error if the stream ends first.
 */
export function readUntil<T extends { readonly rest: Buffer }>(
  stream: Duplex,
  what: string,
  parse: (received: Buffer) => T | undefined,
): Promise<T> {
  let received = Buffer.alloc(0);
  return new Promise((resolve, reject) => {
    function stop(): void {
      stream.off('data', onData);
      stream.off('error', fail);
      stream.off('end', onEnd);
      stream.off('close', onEnd);
      stream.pause();
    }
    function fail(error: unknown): void {
      stop();
      reject(error);
    }
    function onEnd(): void {
      fail(new Error(`the connection ended before ${what}`));
    }
    function onData(bytes: Buffer): void {
      received = Buffer.concat([received, bytes]);
      let parsed: T | undefined;
      try {
        parsed = parse(received);
      } catch (error) {
        return fail(error);
      }
      if (parsed === undefined) return;
      stop();
      if (parsed.rest.length > 0) stream.unshift(parsed.rest);
      resolve(parsed);
    }
    stream.on('data', onData);
    stream.on('error', fail);
    stream.on('end', onEnd);
    stream.on('close', onEnd);
    // A 'data' listener does not resume a stream that was paused explicitly.
    stream.resume();
  });
}
