import { numberOption, type OptionGroup, type OptionValues, refuseBoth } from './options.ts';
import { type Identity, readIdentity } from './privileges.ts';

/** Which user and group to become: -u, -g and -U. `read` takes the environment, which has UID and GID for -U. */
export const identityOptions: OptionGroup<Identity, [environment: NodeJS.ProcessEnv]> = {
  rows: [
    { name: 'uid', short: 'u', value: 'UID', help: 'the user to serve clients and run smtpd as' },
    { name: 'gid', short: 'g', value: 'GID', help: 'the group of that user' },
    {
      name: 'user-from-environment',
      short: 'U',
      help: 'take user and groups from UID, GID and GIDLIST',
    },
  ],
  read: (values, environment) => {
    if (values['user-from-environment'] === undefined) {
      return { uid: readId(values, 'uid'), gid: readId(values, 'gid'), groups: undefined };
    }
    refuseBoth(values, 'user-from-environment', 'uid');
    refuseBoth(values, 'user-from-environment', 'gid');
    return readIdentity(environment);
  },
};

function readId(values: OptionValues, name: string): number | undefined {
  // The highest number means "no change" to the system.
  return numberOption(values, name, { min: 0, max: 2 ** 32 - 2, default: undefined });
}
