package dev.mobilebundle.demo;

import android.app.Service;

/**
 * A foreground service that Android 15 and later tell when the hours of its type are used up; one that goes on then is ended
 * with its app.
 *
 * <p>It is Java because the platform's jar that Maven builds with is older and does not have the function: Kotlin would not take
 * "override" there, and would want it with the SDK that Gradle builds with.
 */
public abstract class LimitedService extends Service {
    /** Called by Android 15 and later: Service.onTimeout. */
    public void onTimeout(int startId, int foregroundServiceType) {
        onTimeUsedUp();
    }

    /** Ends the service within seconds. */
    protected abstract void onTimeUsedUp();
}
