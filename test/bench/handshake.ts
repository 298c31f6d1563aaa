/** The floor of a handshake: its arithmetic, as the openssl command measures it. */
import { spawnSync } from 'node:child_process';

/** For how long each operation is repeated, in seconds, and for how long all may take, in milliseconds. */
const SECONDS = 1;
const LIMIT = 60_000;

/** The operations: as `openssl speed` takes them, and how the line that gives their rate begins with -mr. */
const OPERATIONS = [
  ['rsa2048', /^\+F2:\d+:2048:([\d.]+)/m],
  ['ecdsap256', /^\+F4:\d+:256:([\d.]+)/m],
  ['ecdhx25519', /^\+F5:\d+:253:([\d.]+)/m],
] as const;

/**
 * Measures what a server has to compute in a full handshake of TLS 1.3: a signature (RFC 8446 section 4.4.3)
 * and, for the X25519 exchange (RFC 7748 section 6.1), a key of its own and the shared secret. The key is
 * counted as if it cost as much as the secret, which is somewhat too much. The library of the command need
 * not be the one in Node; the sums are the same.
 *
 * @param core on which it runs.
 * @returns a sentence for a kind of key, "P-256" or "RSA 2048"; or that there is no figure.
 */
export function measureHandshake(core: string): (key: string) => string {
  const names = OPERATIONS.map(([name]) => name);
  const { stdout, status } = spawnSync(
    'taskset',
    ['-c', core, 'openssl', 'speed', '-mr', '-seconds', String(SECONDS), ...names],
    { encoding: 'utf8', timeout: LIMIT },
  );
  const [rsa, ecdsa, exchange] = OPERATIONS.map(([, line]) => 1000 / Number(line.exec(stdout ?? '')?.[1]));
  return (key) => {
    const sign = key === 'P-256' ? ecdsa : rsa;
    if (status !== 0 || !isTime(sign) || !isTime(exchange))
      return 'No floor of the handshake: openssl speed failed.';
    const sum = sign + 2 * exchange;
    return [
      `The arithmetic of one full handshake, server side, by openssl speed: ${sum.toFixed(3)} ms CPU`,
      `(${sign.toFixed(3)} to sign with ${key}, 2 x ${exchange.toFixed(3)} for X25519).`,
    ].join(' ');
  };
}

function isTime(time: number | undefined): time is number {
  return time !== undefined && Number.isFinite(time);
}
