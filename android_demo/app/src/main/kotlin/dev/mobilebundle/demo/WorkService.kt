package dev.mobilebundle.demo

import android.Manifest
import android.app.Notification
import android.app.NotificationChannel
import android.app.NotificationManager
import android.app.PendingIntent
import android.content.Context
import android.content.Intent
import android.content.pm.PackageManager
import android.content.pm.ServiceInfo
import android.os.Build
import android.os.IBinder
import dev.mobilebundle.demo.ui.Guarded
import dev.mobilebundle.demo.ui.ModelsActivity

/**
 * A foreground service: it tells Android, and the user, that an answer or an import goes on while other apps are in front.
 * It takes a permission, so only the flavour `online` has it; without, Android decides how long work in the background runs.
 */
class WorkService : LimitedService() {
    override fun onBind(intent: Intent?): IBinder? = null

    override fun onStartCommand(intent: Intent?, flags: Int, startId: Int): Int {
        val notification = notification()
        try {
            if (Build.VERSION.SDK_INT >= Build.VERSION_CODES.Q) begin(notification) else startForeground(ID, notification)
        } catch (_: IllegalStateException) {
            stopSelf() // the hours of this day are used up already, or the app has just left the screen
        }
        return START_NOT_STICKY
    }

    /**
     * The work goes on as long as Android lets it, as in the default flavour: an answer is saved as it grows, and an import
     * that is ended goes on when the app is opened.
     */
    override fun onTimeUsedUp() {
        stopForeground(STOP_FOREGROUND_REMOVE)
        stopSelf()
    }

    @Guarded
    private fun begin(notification: Notification) = startForeground(ID, notification, ServiceInfo.FOREGROUND_SERVICE_TYPE_DATA_SYNC)

    private fun notification(): Notification {
        val channel = NotificationChannel(CHANNEL, getString(R.string.work_channel), NotificationManager.IMPORTANCE_LOW)
        getSystemService(NotificationManager::class.java).createNotificationChannel(channel)
        val open = PendingIntent.getActivity(this, 0, Intent(this, ModelsActivity::class.java), PendingIntent.FLAG_IMMUTABLE)
        return Notification.Builder(this, CHANNEL)
            .setSmallIcon(R.drawable.ic_details)
            .setContentTitle(getString(R.string.work_title))
            .setContentIntent(open)
            .build()
    }

    companion object {
        private const val ID = 1
        private const val CHANNEL = "work"

        /** Starts or ends it, as there is work or none; where the app may have one. */
        fun follow(context: Context, working: Boolean) {
            val service = Intent(context, WorkService::class.java)
            if (!working) {
                context.stopService(service)
            } else if (isAllowed(context)) {
                try {
                    context.startForegroundService(service)
                } catch (_: IllegalStateException) {
                    // the app is in the background already, where none may be started
                }
            }
        }

        /** Before Android 9 none needs a permission; the default flavour has no such service, and then nothing is started. */
        private fun isAllowed(context: Context) = Build.VERSION.SDK_INT < Build.VERSION_CODES.P ||
            context.checkSelfPermission(Manifest.permission.FOREGROUND_SERVICE) == PackageManager.PERMISSION_GRANTED
    }
}
