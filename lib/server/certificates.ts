/** The certificates of a running server: warnings about their faults, and their metrics. */

import type { X509Certificate } from 'node:crypto';
import { isIP } from 'node:net';
import { certificateFaults, earliestExpiry, parseChain } from '../tls/certificate-faults.ts';
import type { KeyPair } from '../tls/context.ts';
import type { Log } from './log.ts';
import { FAMILIES } from './metrics/families.ts';
import { type MetricsSnapshot, singleSeries } from './metrics/snapshot.ts';
import type { SecretsSnapshot } from './secrets.ts';

/** How often faults are logged, in milliseconds: once a day. */
const WARNING_INTERVAL = 86_400_000;

/** Where faults are logged. */
export interface CertificateWatchOptions {
  /** The name of this host (`-l`), which its certificate should have; undefined if it has none. */
  readonly localHost: string | undefined;
  readonly log: Pick<Log, 'warning'>;
  /** How often faults are logged, in milliseconds. */
  readonly interval?: number;
}

/** Certificates that are watched. */
export interface CertificateWatch {
  /** Takes what was read, at the start or again, and logs the faults of its certificates: now, and once a day. */
  loaded(secrets: SecretsSnapshot): void;
  /** Counts an attempt to read it again that failed. */
  reloadFailed(): void;
  /** The metrics of certificates. */
  metrics(): MetricsSnapshot;
}

/** A certificate in use. */
interface CertificateInUse {
  /** The file. */
  readonly path: string;
  /** The server name that it is for; empty for clients that send none. */
  readonly name: string;
  /** What it must contain; undefined if that is not known. */
  readonly expectedName: string | undefined;
  /** The certificate and those that follow it in the file. */
  readonly chain: readonly X509Certificate[];
}

/** Watches the certificates of a server. The timer does not keep the process alive. */
export function watchCertificates(options: CertificateWatchOptions): CertificateWatch {
  const { localHost, log, interval = WARNING_INTERVAL } = options;
  let certificates: readonly CertificateInUse[] = [];
  let loadedAt = 0;
  let failures = 0;
  let isValid = true;

  function warn(): void {
    for (const { path, name, expectedName, chain } of certificates) {
      for (const text of certificateFaults(chain, { now: Date.now(), name: expectedName })) {
        log.warning('certificate', { file: path, name: name === '' ? undefined : name, text });
      }
    }
  }

  setInterval(warn, interval).unref();

  return {
    loaded: (secrets) => {
      certificates = certificatesIn(secrets, localHost);
      loadedAt = Date.now();
      isValid = true;
      warn();
    },
    reloadFailed: () => {
      failures += 1;
      isValid = false;
    },
    metrics: () => ({
      [FAMILIES.certificateExpiry.name]: certificates.map(({ name, path, chain }) => ({
        labels: [name, path],
        numbers: [earliestExpiry(chain) / 1000],
      })),
      ...singleSeries(FAMILIES.certificateLoaded, loadedAt / 1000),
      ...singleSeries(FAMILIES.reloadSuccessful, isValid ? 1 : 0),
      ...singleSeries(FAMILIES.reloadFailures, failures),
    }),
  };
}

function certificatesIn(
  { files, relay }: SecretsSnapshot,
  localHost: string | undefined,
): readonly CertificateInUse[] {
  const inUse = (pairs: readonly KeyPair[], name = '', expectedName?: string): CertificateInUse[] =>
    pairs.map(({ path, certificate }) => ({ path, name, expectedName, chain: parseChain(certificate) }));
  const own = [
    ...inUse(files?.standard ?? [], '', isDomain(localHost) ? localHost : undefined),
    ...Object.entries(files?.byName ?? {}).flatMap(([name, pairs]) =>
      inUse(pairs, name, name.startsWith('*') ? undefined : name),
    ),
  ];
  // Presented to other servers, which do not compare its name. It may be the same file.
  const forRelay = inUse(relay?.tls.pairs ?? []);
  return [...own, ...forRelay.filter(({ path }) => !own.some((one) => one.name === '' && one.path === path))];
}

/** Whether a certificate can have this name: `-l` is also used with a short name, an address, or 0. */
function isDomain(name = ''): boolean {
  return name.includes('.') && isIP(name) === 0;
}
