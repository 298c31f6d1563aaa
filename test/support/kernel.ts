import { readFileSync } from 'node:fs';

/**
 * How many octets have arrived over a TCP connection of 127.0.0.1 and were not read yet.
 *
 * @param port of the side that could read them.
 * @param peer the port of the other side.
 */
export function unreadOctets(port: number, peer: number): number {
  for (const line of readFileSync('/proc/net/tcp', 'latin1').split('\n')) {
    const [, local = '', remote = '', , queues = ''] = line.trim().split(/\s+/);
    if (portOf(local) === port && portOf(remote) === peer)
      return Number.parseInt(queues.split(':')[1] ?? '', 16);
  }
  throw new Error(`no connection from ${port} to ${peer}`);
}

function portOf(address: string): number {
  return Number.parseInt(address.split(':')[1] ?? '', 16);
}
