import type { Reporter } from '../../program/reporter.ts';
import type { Decide } from '../../smtp/decision.ts';
import { createDomainForm } from '../../srs/domain-form.ts';
import { createSrs, type SrsSettings } from '../../srs/srs.ts';
import type { SrsOptions } from './options.ts';
import { createRewriting } from './rewriting.ts';

/** Returns what decides on the commands of one session, which reports to `report`. */
export type CreateRewriting = (report: Reporter) => Decide;

/** Creates what rewrites the envelopes of all sessions, with the options of a program and its keys. */
export function configureRewriting(options: SrsOptions, keys: SrsSettings['keys']): CreateRewriting {
  const settings = { ...options, keys };
  const srs = createSrs(settings);
  const domainForm = createDomainForm(settings);
  return (report) => createRewriting({ ...options, srs, domainForm, report, now: Date.now });
}
