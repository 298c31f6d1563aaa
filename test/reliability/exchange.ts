import { createHash, randomBytes } from 'node:crypto';
import { once } from 'node:events';
import type { Duplex } from 'node:stream';
import type { SmtpClient } from '../support/smtp-client.ts';

/** What went each way: SHA-256 as the one side has it, and as the other. */
export interface Exchange {
  readonly sent: string;
  readonly sentAsRead: string;
  readonly received: string;
  readonly receivedAsWritten: string;
}

/**
 * Sends and receives random octets, both at the same time, with an smtpd-script at the other end.
 *
 * @param slow which side reads slowly, if any.
 */
export async function exchange(
  client: SmtpClient,
  octets: number,
  slow: 'client' | 'smtpd' | 'neither',
): Promise<Exchange> {
  const socket = client.socket();
  socket.removeAllListeners('data');
  client.sendLines(`XDO bulk ${octets}${slow === 'smtpd' ? ' slowly' : ''}`);
  const [sent, [received, tail]] = await Promise.all([
    give(socket, octets),
    take(socket, octets, slow === 'client'),
  ]);
  const [, sentAsRead = '', receivedAsWritten = ''] = /^\r\n250 (\w+) (\w+)\r\n$/.exec(tail) ?? [];
  return { sent, sentAsRead, received, receivedAsWritten };
}

async function give(socket: Duplex, octets: number): Promise<string> {
  const hash = createHash('sha256');
  for (let left = octets; left > 0; ) {
    const piece = randomBytes(Math.min(left, 65536));
    hash.update(piece);
    left -= piece.length;
    if (!socket.write(piece)) await once(socket, 'drain');
  }
  return hash.digest('hex');
}

/** Reads so many octets, and the line of text that follows them and an empty one. */
function take(socket: Duplex, octets: number, slowly: boolean): Promise<[string, string]> {
  const hash = createHash('sha256');
  let left = octets;
  let tail = '';
  return new Promise((resolve, reject) => {
    socket.on('data', (bytes: Buffer) => {
      const wanted = bytes.subarray(0, left);
      hash.update(wanted);
      left -= wanted.length;
      tail += bytes.toString('latin1', wanted.length);
      if (/^\r\n[^\n]*\n/.test(tail)) resolve([hash.digest('hex'), tail]);
      if (!slowly) return;
      socket.pause();
      setTimeout(() => socket.resume(), 1);
    });
    socket.on('close', () => reject(new Error(`the connection has ended, ${left} octets too early`)));
    socket.resume();
  });
}
