import { usage } from '../../program/options.ts';
import type { ReachSettings } from './options.ts';
import type { RelayTarget } from './url.ts';

/**
 * Checks that a server can be reached with these settings, if all mail is for it.
 *
 * @throws Failure (100) if it could never be verified, if it depends on the recipient, or if credentials or pins are given
 * for ssh, which ignores them.
 */
export function checkTarget(
  target: RelayTarget,
  { credentialsFile, pins }: Pick<ReachSettings, 'credentialsFile' | 'pins'>,
): void {
  const { url, ways } = target;
  if (ways.some((way) => 'backup' in way)) {
    throw usage(`${url} is for routes by recipient, see --routes`);
  }
  checkVerifiable(target, pins);
  if (ways.some((way) => 'ssh' in way) && (credentialsFile !== undefined || pins.length > 0)) {
    throw usage('--credentials and --pin have no effect with ssh://');
  }
}

/** @throws Failure (100) if a server could never be verified, and has to be. */
export function checkVerifiable({ url, host, ways }: RelayTarget, pins: readonly string[]): void {
  if (host === undefined && pins.length === 0 && ways.some((way) => 'mustVerify' in way && way.mustVerify)) {
    throw usage(`${url} requires --pin: a Unix socket has no name to verify`);
  }
}
